"""The disentanglement scores of an evaluation, each with the protocol that it was measured by."""

from collections.abc import Callable, Mapping

from jaxtyping import Float, Int64
from torch import Tensor

from tune_ddvae.config import unmet_need
from tune_ddvae.errors import AbsentMetric
from tune_ddvae.metrics import beta_vae as beta
from tune_ddvae.metrics import dci as importance
from tune_ddvae.metrics import sap as predictability
from tune_ddvae.metrics.factor_vae import PRUNING_THRESHOLD, factor_vae
from tune_ddvae.metrics.mutual_information import information, mig, modularity
from tune_ddvae.metrics.subject import Subject


def _factor_vae(subject: Subject) -> float:
    grid, config = subject.grid, subject.config.metrics
    result = factor_vae(
        grid.codes,
        grid.sizes,
        group=config.factor_vae_group,
        train_votes=config.factor_vae_train_votes,
        test_votes=config.factor_vae_test_votes,
        generator=subject.stream("factor_vae"),
    )
    subject.facts["disentanglement/factor_vae"] = {
        **grid.protocol,
        "group": config.factor_vae_group,
        "train_votes": config.factor_vae_train_votes,
        "test_votes": config.factor_vae_test_votes,
        "pruned": result.num_pruned,
        "pruned_below": PRUNING_THRESHOLD,
        "scaled": True,
        "train_score": round(result.train_score, 4),
    }
    return result.score


def _beta_vae(subject: Subject) -> float:
    grid, config = subject.grid, subject.config.metrics
    result = beta.beta_vae(
        grid.codes,
        grid.sizes,
        group=config.beta_vae_group,
        train_votes=config.beta_vae_train_votes,
        test_votes=config.beta_vae_test_votes,
        generator=subject.stream("beta_vae"),
    )
    subject.facts["disentanglement/beta_vae"] = {
        **grid.protocol,
        "group": config.beta_vae_group,
        "train_votes": config.beta_vae_train_votes,
        "test_votes": config.beta_vae_test_votes,
        "classifier": beta.CLASSIFIER,
        "train_score": round(result.train_score, 4),
    }
    return result.score


def _mig(subject: Subject) -> float:
    known = subject.grid_information
    subject.facts["disentanglement/mig"] = _binned(subject)
    return mig(known)


def _modularity(subject: Subject) -> float:
    known = subject.grid_information
    subject.facts["disentanglement/modularity"] = _binned(subject)
    return modularity(known)


def _binned(subject: Subject) -> dict[str, object]:
    return {**subject.grid.protocol, "bins": subject.config.metrics.num_bins}


def _dci(subject: Subject) -> float:
    grid, config = subject.grid, subject.config.metrics
    result = importance.dci(
        grid.codes,
        grid.factors,
        grid.is_unordered,
        num_train=config.dci_train_points,
        num_test=config.dci_test_points,
        generator=subject.stream("dci"),
    )
    subject.facts["disentanglement/dci"] = {
        **grid.protocol,
        "regressor": importance.REGRESSOR,
        "train_points": result.num_train,
        "test_points": result.num_test,
        "completeness": round(result.completeness, 4),
        "informativeness": round(result.informativeness, 4),
    }
    return result.disentanglement


def _sap(subject: Subject) -> float:
    grid = subject.grid
    result = predictability.sap(grid.codes, grid.factors, grid.is_unordered, subject.stream("sap"))
    subject.facts["disentanglement/sap"] = {
        **grid.protocol,
        "ordered": predictability.ORDERED_RULE,
        **_trees(result),
    }
    return result.score


def _trees(result: predictability.SapScore) -> dict[str, object]:
    if result.num_train == 0:
        return {}
    return {
        "unordered": predictability.UNORDERED_RULE,
        "train_points": result.num_train,
        "test_points": result.num_test,
    }


def _class_mig(subject: Subject) -> float:
    codes, classes = _class_codes(subject, "disentanglement/class_mig")
    num_bins = subject.config.metrics.num_bins
    known = information(codes, classes, num_bins)
    subject.facts["disentanglement/class_mig"] = {
        "codes": subject.codes_in_words,
        "points": len(codes),
        "bins": num_bins,
    }
    return mig(known)


def _class_sap(subject: Subject) -> float:
    codes, classes = _class_codes(subject, "disentanglement/class_sap")
    result = predictability.sap(codes, classes, (True,), subject.stream("class_sap"))
    subject.facts["disentanglement/class_sap"] = {
        "codes": subject.codes_in_words,
        "points": len(codes),
        **_trees(result),
    }
    return result.score


def _class_codes(
    subject: Subject, name: str
) -> tuple[Float[Tensor, "batch latent"], Int64[Tensor, "batch 1"]]:
    """Codes of the split and their classes as the one factor.

    Raises:
        AbsentMetric: If more than the class is known, or not even that.
    """
    need = unmet_need(name, subject.config)
    if need:
        raise AbsentMetric(f"needs {need}, data/name is {subject.config.data.name}")
    classes = subject.split.classes
    if classes is None:
        raise AbsentMetric(f"needs known classes, this split of {subject.dataset.name} has none")
    return subject.comparable(subject.means), classes.to(subject.device)[:, None]


MEASURES: Mapping[str, Callable[[Subject], float]] = {
    "disentanglement/factor_vae": _factor_vae,
    "disentanglement/beta_vae": _beta_vae,
    "disentanglement/mig": _mig,
    "disentanglement/dci": _dci,
    "disentanglement/sap": _sap,
    "disentanglement/modularity": _modularity,
    "disentanglement/class_mig": _class_mig,
    "disentanglement/class_sap": _class_sap,
}
