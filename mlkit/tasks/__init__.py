"""Where tasks come from: sine waves, made-up characters, folders of images, pictures with masks."""

from __future__ import annotations

from mlkit.tasks.base import (
    Examples,
    FrozenTasks,
    TaskBatch,
    TaskDistribution,
    concatenate,
    content_hash,
    frozen,
    sample,
)
from mlkit.tasks.class_folders import ClassTasks, grid
from mlkit.tasks.datasets import class_count, folder_tasks, image_form, load
from mlkit.tasks.feature_files import FeatureFile, read_features, write_features
from mlkit.tasks.features import FeatureClasses, FeatureSpec, FeatureTasks
from mlkit.tasks.glyphs import glyphs
from mlkit.tasks.images import ImageClasses
from mlkit.tasks.segmentation import SegmentationSpec, SegmentationTasks, SupervisedMasks, SupervisedSegmentationSpec
from mlkit.tasks.shapes import shapes
from mlkit.tasks.sine import SineTasks, sine
from mlkit.tasks.spec import TaskSpec
from mlkit.tasks.supervised import SupervisedBatches, SupervisedSpec

__all__ = [
    "ClassTasks",
    "Examples",
    "FeatureClasses",
    "FeatureFile",
    "FeatureSpec",
    "FeatureTasks",
    "FrozenTasks",
    "ImageClasses",
    "SegmentationSpec",
    "SegmentationTasks",
    "SineTasks",
    "SupervisedBatches",
    "SupervisedMasks",
    "SupervisedSegmentationSpec",
    "SupervisedSpec",
    "TaskBatch",
    "TaskDistribution",
    "TaskSpec",
    "class_count",
    "concatenate",
    "content_hash",
    "folder_tasks",
    "frozen",
    "glyphs",
    "grid",
    "image_form",
    "load",
    "read_features",
    "sample",
    "shapes",
    "sine",
    "write_features",
]
