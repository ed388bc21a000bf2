"""Starts a concept's prototypes at cluster centres of the concept's vectors in the training images."""

import logging

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from sklearn.cluster import KMeans
from torch import Tensor

from hf_fer.data.loading import LoadedData
from hf_fer.task.base import Task
from hf_fer.task.settings import skipped_file

from ..backbone_csr import feature_map
from ..configuration_csr import CONCEPTS, PROTOTYPES
from ..modeling_csr import CsrForImageClassification, concept_vectors
from ..processing_csr import CsrProcessor
from .images import ImageTransform
from .passes import look_over
from .start import checkpoint_config

logger = logging.getLogger(__name__)


def start_prototypes(task: Task, data: LoadedData, processor: CsrProcessor, model: CsrForImageClassification) -> None:
    """
    Start the prototypes of a new stage 2 as the recipe's `prototype_start` says.

    A resumed run, and stage 2 from a stage-2 checkpoint, keep the prototypes of their checkpoint.
    """
    args, training = task.model_args, task.training_args
    if args.stage != PROTOTYPES or args.prototype_start != "kmeans" or "train" not in data.splits:
        return
    if not training.do_train or training.dry_run or task.replaces_report or task.resumes:
        return
    if checkpoint_config(args.model_name_or_path).stage != CONCEPTS:
        return
    images = data.splits["train"].with_transform(ImageTransform(processor, skipped_file(task)))
    device = model.device
    cluster_prototypes(model.to(training.device), images, training.per_device_eval_batch_size, training.seed)
    model.to(device)


def cluster_prototypes(model: CsrForImageClassification, images: Dataset, batch_size: int, seed: int) -> None:
    """
    Set each concept's prototypes to the centres that k-means finds among the concept's projected vectors.

    A concept's vectors are those that its map pools from the training images that show it. If prototypes are drawn at
    random, all but one are far from every image, and assignment to the nearest prototype never trains them. k-means
    with k-means++ (Arthur and Vassilvitskii 2007) gives each prototype a share of the images.

    Args:
        model: Model of stage 2, with the concept maps of stage 1, on its device.
        images: Training rows with the transform of evaluation, and `concept_labels`.
        batch_size: Images per forward pass.
        seed: Seed of k-means; the same seed gives the same prototypes.
    """

    def vectors(pixels: Tensor) -> np.ndarray:
        features = feature_map(model.backbone, pixels)
        return concept_vectors(features, model.concept_head(features), model.projector).float().cpu().numpy()

    indices, found = zip(*look_over(model, images, batch_size, vectors), strict=True)
    present = np.array(images.with_format(None).select(indices)["concept_labels"]) >= 0.5
    pooled, count = np.stack(found), model.config.num_prototypes
    for concept, name in enumerate(model.config.concepts):
        own = pooled[present[:, concept], concept]
        if len(np.unique(own, axis=0)) < count:
            logger.warning(
                "The prototypes of %s start at random: %d training images show it, and %d prototypes need as many "
                "different images.",
                name,
                len(own),
                count,
            )
            continue
        centres = KMeans(count, n_init=10, random_state=seed).fit(own.astype(np.float64)).cluster_centers_
        start = F.normalize(torch.from_numpy(centres), dim=-1)
        with torch.no_grad():
            model.prototypes[concept].copy_(start)
