"""Figures of the cohort, of training, of evaluation and of tumour shape; drawings of ideas."""

from lggseg.utils.lazy import lazy_names

__all__, __getattr__ = lazy_names(
    __name__,
    {
        "diagrams": "exchange places",
        "ideas": "alike batch_times losses neighbours overlap schedule surrogate winners_luck",
        "architectures": "network networks",
        "real": "REAL failures real_candidates real_results real_split real_table",
        "slider": "browse one_slice",
        "cohort": """
            channels contrast_in_mask grouped montage outlines position_map sizes split_balance
        """,
        "evaluation": """
            candidates cases dice_by_volume dice_per_patient disagreement disk
            expected_against_true latency leaderboard rank_stability reliability uncertainty
        """,
        "shape": "associations bland_altman features_by_group margins shape_agreement",
        "style": "BLUE GREEN GREY ORANGE RED SKY table title",
        "training": "augmented curves gain leak search_history search_paths search_slices",
    },
)
