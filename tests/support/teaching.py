"""What the notebooks say: their folded answers, and the claims that a demo run must bear out."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat

# For each notebook: words of its "What you should see", and what they mean, as an expression over
# the names of the executed notebook (its cells' variables).
CLAIMS: dict[str, dict[str, str]] = {
    "00_start_here": {"a ✓ in the first row": "'here' in open_ways"},
    "01_explore_data": {
        "no brighter than its surroundings before contrast": (
            "contrast.loc[largest[-1], 'pre-contrast'] < 3 < contrast.loc[largest[-1], 'FLAIR']"
        ),
        "many slices have none": (
            "(cohort.mask(largest[len(largest) // 2]).any(axis=(1, 2)) == 0).sum() > 4"
        ),
        "tumours on both sides of the brain": (
            "(cohort.masks[..., :100] > 0).any() and (cohort.masks[..., 156:] > 0).any()"
        ),
        "even a slice with a tumour is mostly healthy": (
            "tumour[tumour > 0].quantile(0.9) < 0.15 * 256**2"
        ),
        "an accuracy of about 99 %": "0.97 < 1 - pixel_share < 0.999",
        "the mask is brighter than its surroundings in channel 1": (
            "(contrast['FLAIR'].dropna() > 0).mean() > 0.9"
        ),
        "FLAIR (or a copy of it) is the brightest in 85 of 87": (
            "(real_brightest == 'FLAIR').sum() == 85 and len(real_brightest) == 87"
        ),
        "brightest after contrast": "set(real_brightest) == {'FLAIR', 'post-contrast'}",
        "in HT from 16 to 70": (
            "real[real['institution'] == 'HT']['tissue_level'].agg(['min', 'max']).tolist()"
            " == [16, 70]"
        ),
        "the medians of the four lie between 54 and 64": (
            "real.groupby('institution')['tissue_level'].median().between(54, 64).all()"
        ),
        "the largest has 45 times the voxels of the smallest": (
            "round(real['tumour_pixels'].max() / real['tumour_pixels'].min()) == 45"
        ),
        "a few patients in whom one or both": "0 < missing.any(axis=1).sum() < 8",
    },
    "02_patient_split": {
        "neighbouring slices of a patient are far more alike": (
            "np.quantile(likeness['same patient, neighbours'], 0.25)"
            " > np.quantile(likeness['two patients'], 0.75)"
        ),
        "every subset has patients of all four institutions": (
            "(plots.real_split().groupby('fold')['institution'].nunique() == 4).all()"
        ),
        "the split of random slices": "splits.random_slice_split(cohort, split) is not None",
        "the model that has seen their neighbours looks better": (
            "inflation > 0 and real['inflation_interval'][0] > 0"
        ),
    },
    "03_train_local": {
        "The number in a box is how many channels": "facts['parameters'] != '0'",
        "no difference: the package does what the six lines do": "gap < 1e-6",
        "the loss of these eight slices falls": "losses[-1] < 0.8 * losses[0]",
        "almost to zero": "rates[-1] < rates[0] < max(rates) / 10",
        "the whole batch at once is the fastest": (
            "max(speed, key=speed.get) == 'whole batch at once'"
        ),
        "both losses end far below": (
            "(metrics[['train/loss', 'val/loss']].iloc[-1]"
            " < 0.6 * metrics[['train/loss', 'val/loss']].iloc[0]).all()"
        ),
        "Dice ends far above": (
            "metrics['val/dice_raw'].iloc[-1] > 0.3 + metrics['val/dice_raw'].iloc[0]"
        ),
        "the worst patient lies well below the mean": (
            "all(t['dice'].min() < t['dice'].mean() - 0.05 for t in (table, real))"
        ),
        "most dots lie to the right": "all((t['dice'] > 0.5).mean() > 0.5 for t in (table, real))",
    },
    "04_tune_hyperparameters": {
        "the later tries crowd near the best value, −2.5": (
            "(toy['setting'][-8:] + 2.5).abs().max() < 0.8"
        ),
        "the staircase hardly rises above trial 0": (
            "real_trials['dice'].max() - real_trials['dice'][0] < 0.01"
        ),
        "most trials are crosses": "(real_trials['state'] == 'pruned').mean() > 0.5",
        "the better the best of them looks": "luck[40] > luck[10] > luck[1]",
        "the interval holds zero": (
            "real['gain_elsewhere']['low'] < 0 < real['gain_elsewhere']['high']"
        ),
    },
    "05_compare_models": {
        "the dots spread far wider than the means differ": (
            "real_dice.std().min() > 3 * (real_dice.mean().max() - real_dice.mean().min())"
        ),
        "the smallest p that the test can give is 0.125": (
            "len(dice) == 4 and pairs['p'].min() > 0.12"
        ),
        "the Attention U-Net is better than the U-Net": (
            "(lambda p: p['p_holm'] < 0.05 and p['difference'] < 0 and p['superiority'] < 0.5)"
            "(real_pairs.set_index(['first', 'second']).loc[('unet', 'attention_unet')])"
        ),
        "in two thirds of the patients and fails in a few": (
            "(lambda p: 0.6 < 1 - p['superiority'] < 0.7 and p['difference'] > 0)"
            "(real_pairs.set_index(['first', 'second']).loc[('unet', 'swin_unetr')])"
        ),
        "in equal time the U-Net is clearly better": "(timed['low'] > 0).all() and len(timed) == 2",
        "All score lower than in cross-validation": (
            "all(shown[n]['mean'] < real_dice[n].mean() for n in configs)"
        ),
        "for the other pairs no difference was shown": "(real_pairs['p_holm'] < 0.05).sum() == 1",
        "too low at the left": ("all(b[1, 2] > b[1, 1] for b in real_bins.values())"),
        "too high at the right": (
            "all((b[-4:, 2] / b[-4:, 0] < b[-4:, 1] / b[-4:, 0]).all() for b in real_bins.values())"
        ),
        "the dots rise from left to right": (
            "real_table[real_table['model'] == 'unet'][['dice', 'expected_dice']]"
            ".corr('spearman').iloc[0, 1] > 0.3"
        ),
        "most lie below the line": (
            "(lambda t: (t['dice'] < t['expected_dice']).mean() > 0.5)"
            "(real_table[real_table['model'] == 'unet'])"
        ),
        "the highest entropy lies along the predicted outline": (
            "calibration.entropy(found.probability)[found.mask].mean()"
            " > calibration.entropy(found.probability)[~found.mask].mean()"
        ),
    },
    "05b_choose_and_score": {
        "score somewhat lower than the cross-validated ones": (
            "test['dice'].mean() < folds['dice'].mean()"
        ),
        "each network after 8 epochs": (
            "(candidates['epochs'] == 8).all() and {c.epochs for c in shipped.values()} == {40}"
        ),
        "the gain of the Attention U-Net is larger than chance": (
            "best == 'attention_unet' and gap > 0 and candidates['p'][best] < 0.001"
        ),
        "it costs nearly twice the time": "1.7 < min(training, inference) and training < 2",
        "(`equal time`) it scores lower": (
            "scores['attention_unet, equal time']['dice']['mean'] < scores['unet']['dice']['mean']"
        ),
        "it is 0.013 better than the U-Net, for 60 of 70 patients": (
            "(lambda gain: round(gain['difference'], 3) == 0.013 and gain['n'] == 70"
            " and gain['low'] > 0)(gains['Attention U-Net'])"
            " and (others[0] > unet[others[0].index]).sum() == 60"
        ),
        "is now better for 55 of 70, but not on average (the interval of the mean includes 0)": (
            "gains['Swin UNETR']['low'] < 0 < gains['Swin UNETR']['high']"
            " and (others[1] > unet[others[1].index]).sum() == 55"
        ),
        "a fold takes it three times as long": (
            "2.5 < candidates['seconds']['swin_unetr'] / candidates['seconds']['unet'] < 3.5"
        ),
        "0.811 with torch's Muon, 0.808 after the optimiser": (
            "[round(mean, 3) for mean in before] == [0.811, 0.808]"
        ),
        "Dice tends to rise with the volume of the tumour": "rank > 0.2",
        "small ones vary most": (
            "(lambda sd: sd.iloc[0] == sd.max())(folds.groupby("
            "pd.qcut(folds['truth_voxels'], 3))['dice'].std())"
        ),
        "Here it grows with size": (
            "(lambda sd: sd.iloc[-1] == sd.max())((folds['predicted_voxels'] - folds['truth_voxels'"
            "]).groupby(pd.qcut(folds['truth_voxels'], 3)).std())"
        ),
        "a solid line above zero": (
            "(folds['predicted_voxels'] - folds['truth_voxels']).mean() > 0"
        ),
        "for most patients": "(folds['predicted_voxels'] > folds['truth_voxels']).mean() > 0.5",
    },
    "06_tumour_shape": {
        "the ICC of volume is 0.99": "round(real_agreed['icc']['volume'], 2) == 0.99",
        "the agreement is only moderate (0.60 to 0.65)": (
            "(lambda icc: (round(icc.min(), 2), round(icc.max(), 2)) == (0.6, 0.65))"
            "(real_agreed['icc'][list(shape.PAPER)])"
        ),
        "with a mean Dice of 0.87": "round(results['mean_dice'], 2) == 0.87",
        "Most dots lie above 0 on the left": (
            "(real_predicted[shape.PAPER[0]] > real_true[shape.PAPER[0]]).mean() > 0.5"
        ),
        "below 0 in the other two": (
            "all((real_predicted[f] < real_true[f]).mean() > 0.5 for f in shape.PAPER[1:])"
        ),
        "two of the three are paler there with predicted masks": (
            "(lambda t, p: (t.idxmax(axis=1) == 'RNASeqCluster').all()"
            " and (p.idxmax(axis=1) == 'RNASeqCluster').all()"
            " and (p['RNASeqCluster'] < t['RNASeqCluster']).sum() == 2)"
            "(*[real_tests[n].pivot(index='feature', columns='grouping',"
            " values='epsilon_squared').loc[list(shape.PAPER)] for n in masks])"
        ),
        "two of the three features differ between clusters with the readers' outlines": (
            "[(real_beside.xs(n, level='mask')['p_fisher'] < 0.005).sum() for n in masks] == [2, 0]"
        ),
        "(0.0003 and 0.004). With the network's outlines none does (0.04 to 0.09)": (
            "sorted(real_beside['p_fisher'])[:2] == [0.00026, 0.00386]"
            " and [round(f(real_beside.xs('predicted masks', level='mask')['p_fisher']), 2)"
            " for f in (min, max)] == [0.04, 0.09]"
        ),
        "by the ranks (`p`), two of the network's features are below 0.005": (
            "(real_beside.xs('predicted masks', level='mask')['p'] < 0.005).sum() == 2"
        ),
        "two hold with the readers' outlines and none with the network's": (
            "[(real_beside.xs(n, level='mask')['p_holm'] < 0.05).sum() for n in masks] == [2, 0]"
        ),
        "of volume and surface area with RPPACluster": (
            "(lambda t: set(zip(t['feature'], t['grouping']))"
            " == {('volume', 'RPPACluster'), ('surface_area', 'RPPACluster')})"
            "(real_tests['predicted masks'].query('p_holm < 0.05'))"
        ),
        "keep their order (ranks at least 0.90)": (
            "round(real_distances['ranks'].loc[['volume', 'surface_area']].min(axis=None), 2)"
            " == 0.9"
        ),
        "(ranks 0.10 and 0.03 when it is doubled)": (
            "real_distances['ranks', 'twice'][['elongation', 'flatness']].round(2).tolist()"
            " == [0.1, 0.03]"
        ),
        "(p 0.51 to 0.73) or with the number of tumour slices (ρ −0.01 to 0.06)": (
            "real_others[['institution: p', 'ρ with tumour slices']].agg(['min', 'max']).round(2)"
            ".T.to_numpy().tolist() == [[0.51, 0.73], [-0.01, 0.06]]"
        ),
        "one feature goes with grade: the bounding ellipsoid volume ratio (p 0.046 after Holm)": (
            "(lambda p: p.idxmin() == shape.PAPER[0] and round(p.min(), 3) == 0.046"
            " and (p < 0.05).sum() == 1)(real_grade['p_holm'])"
        ),
    },
    "07_deploy": {
        "a dot per request": "len(table) == 3 * table['patient'].nunique()",
        "how long it took until it answered": "ready < 60",
    },
    "08_query_endpoint": {
        "a status and a sentence for each": (
            "len(answers) == 5 and all('found' in text for text in answers.values())"
        ),
        "truth and prediction agree least in the case on the right": (
            "table.set_index('patient')['dice'].idxmin() == chosen[-1]"
        ),
    },
    "99_clean_up": {
        "take most of the space": "mib['cached cohorts'] == max(mib.values())",
        "Registered models are small": (
            "mib['registered models'] < mib[f'runs on the {cohort.label} cohort']"
        ),
    },
}


def prose(notebook: nbformat.NotebookNode) -> str:
    """All text of a notebook, its lines joined."""
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    return " ".join("\n".join(cells).split())


def answers(notebook: nbformat.NotebookNode) -> list[str]:
    """The code in a notebook's folded answers."""
    folded = re.findall(r"<details>.*?</details>", "\n".join(_texts(notebook)), flags=re.S)
    return [code for part in folded for code in re.findall(r"```python\n(.*?)```", part, re.S)]


def _texts(notebook: nbformat.NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def with_more_code(path: Path, target: Path, more: list[str]) -> None:
    """A copy of a notebook with further cells at its end."""
    notebook = nbformat.read(path, 4)
    notebook.cells += [nbformat.v4.new_code_cell(code) for code in more]
    nbformat.write(notebook, target)


def claims_as_code(name: str) -> list[str]:
    """The claims of a notebook as cells, each of which fails with its words."""
    return [f"assert {code}, {words!r}" for words, code in CLAIMS.get(name, {}).items()]
