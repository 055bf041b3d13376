"""The bench beside other projects: all sides compute the same, or nothing is timed."""

import csv
import dataclasses
import io
import sys
import warnings

import jax
import pytest

from hiper_jax import lm
from hiper_jax.experiments import cli
from hiper_jax.experiments.bench import batch as bench_batch
from hiper_jax.experiments.bench import models, peers, tunix_side, update_sides

SMALL = lm.tiny(64, width=16, depth=1, num_heads=2, num_kv_heads=1, head_dim=8)
FEW = peers.Peers(
    prompts=2,
    new=3,
    episodes=2,
    turns=2,
    chunk=4,
    scale=32,
    rounds=1,
    models=("small",),
)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """One run of the bench on a very small model, with two lengths."""
    pytest.importorskip("torch", reason="install the extra `parity`")
    pytest.importorskip("tunix", reason="install the extra `peers`")
    out = tmp_path_factory.mktemp("peers")
    # Other projects let numpy's rules of broadcasting stand, and warn of much.
    allow = jax.numpy_rank_promotion("allow")
    with pytest.MonkeyPatch.context() as patch, allow, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in (bench_batch, peers, update_sides):
            patch.setattr(module, "published", lambda scale: (64, 16, (80,)))
        patch.setitem(models.MODELS, "small", SMALL)
        return out, peers.main(dataclasses.replace(FEW, out=str(out)))


@pytest.mark.parity
def test_all_sides_compute_the_same_update_and_write_the_same_texts(ran):
    """`main` compares before it times: log-probs, losses, norms of gradients, texts."""
    out, result = ran
    found = result["found"]["small"]
    assert set(found["generate"]["equal tokens"].values()) == {1.0}
    same = found["update"]["same"]
    assert {"ours", "tunix, trimmed", "torch, trimmed"} == set(same)
    for part, mine in same["ours"].items():
        assert abs(mine) > 1e-5, part
        for theirs in same.values():
            assert theirs[part] == pytest.approx(mine, rel=2e-3, abs=1e-6)
    rows = list(csv.DictReader(io.StringIO((out / "peers.csv").read_text())))
    assert {row["what"] for row in rows} == {"generate", "update"}
    assert all(float(row["median_s"]) > 0 for row in rows)
    assert "| small | update | tunix |" in (out / "peers.md").read_text()


def test_an_update_with_another_loss_is_refused():
    right = {"policy": 0.5, "grad actor": 2.0}
    peers.check_parts("tunix", right, right)
    with pytest.raises(RuntimeError, match="policy is 0.5 for us and 0.51 for tunix"):
        peers.check_parts("tunix", right, right | {"policy": 0.51})
    with pytest.raises(RuntimeError, match="grad actor"):
        peers.check_parts("tunix", right, right | {"grad actor": float("nan")})


def test_without_the_package_one_line_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tunix", None)
    with pytest.raises(ImportError, match=r"pip install 'hiper-jax\[peers,parity\]'"):
        tunix_side.need_tunix()
    monkeypatch.setattr(models, "need_torch", lambda: None)
    with pytest.raises(SystemExit):
        cli.main(["bench", "peers"])
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0 and "hiper-jax[peers,parity]" in said
