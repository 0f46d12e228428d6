"""Volume in, mask out: the model folder, prediction, evaluation, export."""

from lggseg.utils.lazy import lazy_names

__all__, __getattr__ = lazy_names(
    __name__,
    {
        "flags": "quality_flags",
        "model_folder": "amend_card read_card write_card",
        "monai_bundle": "export_bundle",
        "onnx_export": "export_model inference_graph",
        "predict": "predict_folder",
        "scans": "predict_dicom predict_nifti predict_scans",
        "segmenter": "Prediction Segmenter",
    },
)
