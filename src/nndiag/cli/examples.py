"""What each command's help ends with: examples in which every option of its own occurs."""

from __future__ import annotations

from collections.abc import Mapping

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "check-dropout": (
        "models.py:build data.py:loader --train",
        "models.py:build x.npz --masks 64 --max-variance-ratio 1.2",
    ),
    "check-normalization": (
        "models.py:build train.npz --serve serve.npz --lr 0.1 --optimizer sgd",
        "images.npy --feature-axis 1",
        "--model models.py:build --data train.npz --weights checkpoint.pt",
    ),
    "entropy-floor": (
        "labels.npy --curve run.csv:train_loss --label-smoothing 0.1 --smoothing-style fairseq --tail 10%",
        "labels.npy --predictions p.npy --class-weights 1,2,5 --classes 3",
        "labels.npy --logits z.npy --teacher t.npy --alpha 0.1 --temperature 4",
        "tokens.npy --ignore-index -1 --curve trainer_state.json --units bits",
        "--model models.py:build --data train.npz --train",
    ),
    "embedding-cost": (
        "--vocab 2000000 --dim 64 --batch-size 64 --seq-len 128 --optimizer adam --dtype bfloat16 --memory 40GiB",
        "models.py:build data.py:loader --measure --clip-grad-norm 1 --accumulation 4 --no-set-to-none",
        "--vocab 50257 --dim 768 --tokens ids.npy --tied --gpus 8 --max-never-seen 0.2 --max-rare 0.3 --min-updates 5",
        "--vocab 2000000 --dim 64 --sparse --max-share 0.3 --min-ms 20 --small-rows 65536",
    ),
    "init-symmetry": (
        "models.py:build --steps 200 --tolerance 1e-5 --layers 'encoder.*'",
        "models.py:build x.npz --samples 256 --max-dead-share 0.2 --max-gain 1e6 --min-input-share 1e-4",
    ),
    "multigpu-lr": (
        "--base-lr 3e-4 --base-batch 32 --gpus 8 --per-device-batch 32 --lr 2.4e-3 --warmup 500 --rule linear",
        "--base-lr 0.1 --base-batch 256 --nodes 2 --gpus 8 --global-batch 4096 --dataset-size 1281167 --epochs 90",
        "accelerate.yaml --per-device-batch 32 --accumulation 2 --framework accelerate",
        "--gpus 2 --per-device-batch 32 --model models.py:build --data train.npz --ranks 2",
    ),
    "all": ("models.py:build data.py:loader --serve serve.npz --labels labels.npy -o html:report.html",),
}


def epilog(command: str) -> str:
    """Return the examples as the end of a command's help."""
    return "\n\n".join(["Examples:", *(f"  nndiag {command} {line}" for line in EXAMPLES[command])])
