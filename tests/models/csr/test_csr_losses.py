"""CSR's losses against small cases worked out by hand, and their gradients against finite differences, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from models.suite_csr import batch, config

from hf_fer.models.csr import CsrForImageClassification
from hf_fer.models.csr.losses_csr import assign, background_places, class_loss, concept_loss, prototype_loss


def tensor(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


class TestConceptLoss:
    def test_by_hand(self):
        """Logit 0 has probability 1/2, logit log 3 has 3/4; the positive of concept 0 counts twice."""
        logits, targets = tensor([0.0, math.log(3)]), tensor([1.0, 0.0])
        expected = (2 * -math.log(1 / 2) - math.log(1 / 4)) / 2
        assert concept_loss(logits, targets, tensor(2.0, 5.0)).item() == pytest.approx(expected, abs=1e-12)

    def test_soft_targets(self):
        logits, targets = tensor([math.log(3)]), tensor([0.25])
        expected = -(0.25 * math.log(3 / 4) + 0.75 * math.log(1 / 4))
        assert concept_loss(logits, targets).item() == pytest.approx(expected, abs=1e-12)

    def test_unreadable_images_do_not_count(self):
        logits, targets = tensor([0.3, -1.0], [5.0, 5.0]), tensor([1.0, 0.0], [-100.0, -100.0])
        assert concept_loss(logits, targets) == concept_loss(logits[:1], targets[:1])

    def test_gradient(self):
        logits = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
        targets = tensor([1.0, 0.0], [0.3, 1.0], [0.0, -100.0])
        assert torch.autograd.gradcheck(lambda x: concept_loss(x, targets, tensor(2.0, 0.5)), logits)


class TestAssignment:
    def test_by_hand(self):
        """gamma = log 3 and similarities 1 and 0 give weights 3/4 and 1/4."""
        assert assign(tensor(1.0, 0.0), math.log(3)).item() == pytest.approx(0.75, abs=1e-12)

    def test_large_gamma_is_the_maximum(self):
        assert assign(tensor(0.2, 0.9, -0.4), 1000.0).item() == pytest.approx(0.9, abs=1e-12)

    def test_pruned_prototypes_do_not_count(self):
        kept = torch.tensor([True, False, True])
        assert assign(tensor(0.2, 0.9, -0.4), 5.0, kept) == assign(tensor(0.2, -0.4), 5.0)
        assert assign(tensor(0.2, 0.9), 5.0, torch.tensor([False, False])) == 0

    def test_gradient(self):
        similarities = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x: assign(x, 4.0), similarities)


class TestPrototypeLoss:
    # Image 0 shows concept 0 with similarities 0.5 and 0.1; image 1 shows both.
    similarities = tensor([[0.5, 0.1], [9.0, 9.0]], [[0.4, 0.2], [0.3, 0.6]])
    present = torch.tensor([[True, False], [True, True]])

    def test_by_hand(self):
        def one(own: float, other: float) -> float:
            return -math.log(math.exp(20 * (own - 0.1)) / (math.exp(20 * (own - 0.1)) + math.exp(20 * other)))

        expected = (one(0.5, 0.1) + one(0.4, 0.2) + one(0.6, 0.3)) / 2
        assert prototype_loss(self.similarities, self.present, 20.0, -0.1).item() == pytest.approx(expected, abs=1e-12)

    def test_the_sign_of_the_margin(self):
        """As the paper prints it, the margin makes the loss smaller; as in SoftTriple, larger."""
        none, minus, plus = (prototype_loss(self.similarities, self.present, 20.0, m) for m in (0.0, -0.1, 0.1))
        assert plus < none < minus

    def test_an_image_without_concepts_adds_nothing_but_counts(self):
        empty = torch.zeros(2, 2, dtype=torch.bool)
        both = torch.cat([self.present, empty])
        half = prototype_loss(self.similarities.repeat(2, 1, 1), both, 20.0, -0.1)
        assert half.item() == pytest.approx(prototype_loss(self.similarities, self.present, 20.0, -0.1).item() / 2)

    def test_gradient(self):
        similarities = self.similarities.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda x: prototype_loss(x, self.present, 3.0, -0.1), similarities)


class TestBackground:
    similarities = tensor([[0.5, 0.1], [9.0, 9.0]])
    present = torch.tensor([[True, False]])

    def test_by_hand(self):
        """Concept 0 of one image against concept 1 and the one place that is background of concept 0."""
        background = tensor([[0.3, -math.inf, -math.inf], [0.2, 0.2, 0.2]])
        own, other, beside = (math.exp(20 * s) for s in (0.5 - 0.1, 0.1, 0.3))
        found = prototype_loss(self.similarities, self.present, 20.0, -0.1, background).item()
        assert found == pytest.approx(-math.log(own / (own + other + beside)), abs=1e-12)

    def test_without_background_places_it_is_the_papers_loss(self):
        nowhere = torch.full((1, 2, 3), -math.inf, dtype=torch.float64)
        found = prototype_loss(self.similarities, self.present, 20.0, -0.1, nowhere)
        assert found == prototype_loss(self.similarities, self.present, 20.0, -0.1)

    def test_places(self):
        maps = tensor([0.0, 1.0, 4.0], [2.0, 2.0, 2.0])
        assert background_places(maps, 0.5).tolist() == [[True, True, False], [False, False, False]]

    def test_a_step_lowers_the_similarity_beside_the_concept_and_raises_it_there(self):
        """Concept 0 is at place 0 alone. The paper's loss does not compare with the place beside it."""
        model = small_model(2, prototype_size=16, assignment_scale=10.0, prototype_loss="background")
        features = torch.randn(1, 16, 1, 4, dtype=torch.float64)
        maps = torch.full((1, 2, 1, 4), -5.0, dtype=torch.float64)
        maps[:, :, :, 0] = 5.0
        outputs = {"concept_maps": maps}
        model._stage_loss(features, outputs, None, tensor([1.0, 0.0])).backward()

        def contrast() -> float:
            own = model.similarity_maps(features)[0, 0].flatten(1).detach()
            return (own[:, 0].mean() - own[:, 1:].mean()).item()

        before = contrast()
        with torch.no_grad():
            model.prototypes -= 0.01 * model.prototypes.grad
        assert contrast() > before


class TestClassLoss:
    def test_by_hand(self):
        logits = tensor([math.log(3), 0.0], [7.0, 7.0])
        assert class_loss(logits, torch.tensor([0, -100])).item() == pytest.approx(-math.log(3 / 4), abs=1e-12)

    def test_several_labels(self):
        logits, targets = tensor([0.0, math.log(3)]), tensor([1.0, 1.0])
        expected = -(math.log(1 / 2) + math.log(3 / 4)) / 2
        assert class_loss(logits, targets).item() == pytest.approx(expected, abs=1e-12)

    def test_gradient(self):
        logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x: class_loss(x, torch.tensor([1, -100, 3])), logits)


def small_model(stage: int, **fields) -> CsrForImageClassification:
    torch.manual_seed(0)
    return CsrForImageClassification(config("convnext", stage, num_concepts=2, num_prototypes=2, **fields)).double()


def test_stage_2_by_hand():
    """The whole of stage 2 on two places of two channels, the projection being the identity."""
    model = small_model(2, prototype_size=16, similarity_scale=20.0, assignment_scale=2.0, margin=0.1)
    model.projector = torch.nn.Identity()
    features = torch.zeros(1, 16, 1, 2, dtype=torch.float64)
    features[0, 0, 0, 0], features[0, 1, 0, 1] = 3.0, 4.0
    maps = tensor([[[0.0, 0.0]], [[math.log(3), 0.0]]])
    with torch.no_grad():
        model.prototypes.zero_()
        model.prototypes[0, 0, 0] = model.prototypes[0, 1, 1] = model.prototypes[1, 0, 1] = 2.0
        model.prototypes[1, 1, 0] = -1.0
    found = model._concept_similarities(features, maps)[0]

    def pooled(weight: float) -> tuple[float, float]:
        x, y = 3 * weight, 4 * (1 - weight)
        return x / math.hypot(x, y), y / math.hypot(x, y)

    def soft(first: float, second: float) -> float:
        weights = math.exp(2 * first), math.exp(2 * second)
        return (weights[0] * first + weights[1] * second) / sum(weights)

    for concept, (x, y) in enumerate((pooled(1 / 2), pooled(3 / 4))):
        assert found[concept].tolist() == pytest.approx([soft(x, y), soft(y, -x)], abs=1e-6)


@pytest.mark.parametrize(("stage", "loss"), [(1, "paper"), (2, "paper"), (2, "background"), (3, "paper")])
def test_gradient_of_the_whole_model_by_finite_differences(stage, loss):
    """Central differences along one random direction over all parameters that the stage trains."""
    fields = {"assignment_scale": 5.0, "similarity_scale": 3.0, "prototype_loss": loss}
    model = small_model(stage, num_labels=3, **fields).eval()
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in batch(3).items()}
    inputs["concept_labels"] = inputs["concept_labels"][:, :2]
    parameters = [value for value in model.parameters() if value.requires_grad]
    model(**inputs).loss.backward()
    directions = [torch.randn_like(value) for value in parameters]
    expected = sum((value.grad * way).sum() for value, way in zip(parameters, directions, strict=True)).item()

    @torch.no_grad()
    def loss_at(step: float) -> float:
        for value, way in zip(parameters, directions, strict=True):
            value.add_(way, alpha=step)
        found = model(**inputs).loss.item()
        for value, way in zip(parameters, directions, strict=True):
            value.add_(way, alpha=-step)
        return found

    assert (loss_at(1e-6) - loss_at(-1e-6)) / 2e-6 == pytest.approx(expected, rel=1e-5)


def pull_on_prototypes(scale: float) -> list[float]:
    """Length of the gradient of each of a concept's three prototypes, where all vectors are nearest to the first."""
    vectors = F.normalize(tensor([1.0, 0.1, 0.0], [1.0, -0.1, 0.1]), dim=-1)
    prototypes = tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.6, 0.0, -0.8]], [[0.0, 1.0, 0.0]] * 3)
    prototypes.requires_grad_()
    own, other = (vectors @ F.normalize(concept, dim=-1).T for concept in prototypes)
    similarities = torch.stack([assign(own, scale), assign(other, scale)], dim=-1)[:, None].expand(-1, 2, -1)
    prototype_loss(similarities, torch.tensor([[True, False]] * 2), 20.0, -1.0).backward()
    return prototypes.grad[0].norm(dim=-1).tolist()


def test_hard_assignment_trains_one_prototype_and_soft_assignment_all():
    """
    The softmax of gamma 1000 is 0 for every prototype but the nearest; of SoftTriple's 10 it is not.

    So prototypes that are drawn far from all images are never pulled to one, whatever the number of epochs.
    """
    winner, *losers = pull_on_prototypes(1000.0)
    assert winner > 0.1
    assert max(losers) < 1e-30
    winner, *losers = pull_on_prototypes(10.0)
    assert min(losers) > 0.01 * winner
