"""What can be typed, as ``python train.py`` and the commands' ``--help`` tell it."""

BEGIN = (
    "Tune a Chinese embedding model and measure it. Begin: finetune doctor; "
    "finetune split pairs.csv --out own; finetune train recipes=contrastive domain=custom "
    "domain.train=own/train.jsonl domain.dev=own/dev"
)
EXIT_CODES = (
    "exit codes: 0 done and no gate failed; 2 the input or configuration is at fault; 3 the work "
    "is done but a gate failed; 1 anything else"
)


def usage() -> str:
    """Say what can be typed, with the recipes, domains and models there are."""
    from finetune.config.compose import choices

    return "\n".join([
        "usage: python train.py recipes=<recipe> domain=<domain> model=<model> [key=value ...]",
        "",
        *(f"  {group:9} {', '.join(choices(group))}"
          for group in ("recipes", "domain", "model", "hardware")),
        "",
        "begin with recipes=contrastive; domain=custom: your own data; legal, medical, ecommerce,",
        "finance and the sets of scored pairs need paths.data=<folder>",
        "",
        "examples:",
        "  python train.py recipes=contrastive                       # the embedded statutes",
        "  python train.py recipes=full domain=custom domain.train=pairs.jsonl domain.dev=<folder>",
        "  python train.py -m recipes=full,contrastive               # one run after the other",
        "  finetune tune recipes=full                                # search for better settings",
        "  limit=300 for a quick trial; until=mine to stop after a step; seed=1; run_dir=<folder>",
    ])  # fmt: skip


def usage_of_tune() -> str:
    """Say what a search does, and how its ranges are set."""
    return "\n".join([
        "usage: finetune tune recipes=<recipe> [key=value ...] [key=<range> ...]",
        "",
        "20 trainings (tune.trials) that search learning rate and scale in the ranges of",
        "configs/tune/default.yaml; ends in a table and the command line that trains with the best",
        "values. The same command goes on where it stopped.",
        "",
        "examples:",
        "  finetune tune recipes=full domain=custom domain.train=pairs.jsonl domain.dev=dev/",
        "  finetune tune recipes=full 'train.epochs=interval(1,3)' tune.trials=10",
        "",
        "python train.py lists the recipes, domains and models",
    ])  # fmt: skip
