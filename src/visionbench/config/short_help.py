"""The options of `fit` that most runs need, by group, as `--help` prints them; `--help all` prints every option."""

from collections.abc import Sequence

from visionbench.models import MODELS

# Groups of options: the option, its value, its meaning and its default, which is empty where there is none.
GROUPS: Sequence[tuple[str, Sequence[tuple[str, str, str, str]]]] = (
    (
        "Run",
        (
            ("--config", "FILE", "settings of a run; a later file, or an option, overrides", ""),
            ("--seed_everything", "INT", "seed of weights, order and augmentation", "0"),
            ("--name", "TEXT", "name of the run: LOG_DIR/NAME/version_N; default: the first file, or the model", ""),
            ("--log_dir", "DIR", "folder of all runs", "lightning_logs"),
            ("--run_dir", "DIR", "run folder itself, which must be new or empty", ""),
            ("--resume", "RUN_DIR", "run to resume, or auto for the newest unfinished one", ""),
            ("--allow", "[NAME,...]", "guards whose refusals become notes; docs/guards.md", "[]"),
        ),
    ),
    (
        "Data",
        (
            ("--data", "NAME", "data set, such as FashionMNIST; visionbench data list lists them", ""),
            ("--data.root", "DIR", "folder of prepared data sets; by default $VISIONBENCH_DATA, else data", ""),
            ("--data.batch_size", "INT", "samples in a batch", "64"),
            ("--data.val_size", "SIZE", "validation samples: a number, or a fraction such as 0.1", ""),
            ("--data.train_size", "SIZE", "training samples that are used: a number, or a fraction", ""),
            ("--data.split_seed", "INT", "seed that chooses the samples of each split", "0"),
            ("--data.augment", "[NAME,...]", "random changes of training images, such as HorizontalFlip", ""),
        ),
    ),
    (
        "Model",
        (
            ("--model", "NAME", f"{', '.join(MODELS)}, or the import path of your own", ""),
            ("--model.loss", "NAME", "cross_entropy, nll, binary_cross_entropy or mse", "cross_entropy"),
            ("--model.freeze", "[NAME,...]", "parts that are not trained", ""),
            ("--model.start_from", "RUN_DIR", "run or checkpoint whose weights training starts from", ""),
        ),
    ),
    (
        "Training",
        (
            ("--trainer.max_epochs", "INT", "number of epochs", "10"),
            ("--model.optimizer", "NAME", "optimizer of torch.optim", "Adam"),
            ("--model.optimizer.lr", "FLOAT", "learning rate", "0.001"),
            ("--model.lr_scheduler", "NAME", "scheduler of torch.optim.lr_scheduler, or WarmupCosineLR", ""),
            ("--trainer.accelerator", "NAME", "cpu, gpu, mps or auto", "auto"),
            ("--trainer.precision", "NAME", "such as 32-true or bf16-mixed; by default what the device does fast", ""),
            ("--trainer.gradient_clip_val", "FLOAT", "largest norm of the gradients", ""),
            ("--trainer", "FILE", "settings of the trainer, such as configs/trainer/gpu.yaml", ""),
        ),
    ),
    (
        "Choice of the epoch, and results",
        (
            ("--objective.metric", "NAME", "metric that chooses the epoch", "val/loss"),
            ("--objective.mode", "MODE", "min or max; by default that of the metric", ""),
            ("--checkpoint.result", "EPOCH", "epoch that is the result: best, by the objective, or last", "best"),
            ("--early_stopping.patience", "INT", "epochs without improvement after which training ends", ""),
            ("--metrics", "[NAME,...]", "metrics besides loss and accuracy; docs/metrics.md", "[]"),
            ("--evaluate", "[NAME,...]", "further evaluations: train_eval, before, augmented_val", "[]"),
            ("--evaluate_every", "WHEN", "when train_eval and augmented_val are made: end or epoch", "end"),
            ("--checkpoint.every_n_steps", "INT", "steps between checkpoints within an epoch", ""),
            ("--figures", "KIND", "figures to draw: none, final or all", "final"),
        ),
    ),
)

ENDING = """\
More:
  --model.help NAME, --data.help NAME           options of a model or a data set
  --model NAME --model.optimizer.help NAME      options of an optimizer
  --model NAME --model.lr_scheduler.help NAME   options of a scheduler
  --data NAME --data.augment.help NAME          options of an augmentation
  --print_config                                every setting with its value, as a file for --config
  --help all                                    every option"""


def short_help(command: str, summary: str) -> str:
    """The text of `--help`.

    Args:
        command: Name of the command.
        summary: Sentence that says what the command does.
    """
    lines = [f"usage: visionbench {command} --config FILE [options]", "", summary]
    width = max(len(f"{option} {value}") for _, options in GROUPS for option, value, *_ in options)
    for title, options in GROUPS:
        lines += ["", f"{title}:"]
        for option, value, meaning, default in options:
            if command == "check" and option == "--resume":  # which it refuses
                continue
            ending = f" ({default})" if default else ""
            lines.append(f"  {f'{option} {value}':<{width}}  {meaning}{ending}")
    return "\n".join([*lines, "", ENDING])


def asks_for_help(args: Sequence[str]) -> bool:
    """Whether the options ask for the short help: -h or --help, not followed by all."""
    return any(
        word in ("-h", "--help") and following != "all" for word, following in zip(args, [*args[1:], ""], strict=False)
    )


def without_all(args: Sequence[str]) -> list[str]:
    """The options with `--help all` as the parser knows it."""
    return ["--help"] if any(word in ("-h", "--help", "--help=all") for word in args) else list(args)
