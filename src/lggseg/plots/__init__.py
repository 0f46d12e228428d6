"""Figures of the cohort, of training, of evaluation and of tumour shape."""

from lggseg.utils.lazy import lazy_names

__all__, __getattr__ = lazy_names(
    __name__,
    {
        "figures": """
            BLUE GREEN GREY ORANGE RED SKY associations augmented bland_altman cases channels
            contrast_in_mask curves dice_per_patient disagreement disk expected_against_true
            features_by_group gain grouped latency leaderboard leak margins montage outlines
            position_map rank_stability reliability search_history search_paths search_slices
            shape_agreement sizes split_balance table uncertainty
        """,
    },
)
