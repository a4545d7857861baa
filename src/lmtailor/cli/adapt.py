"""`lmtailor adapt`."""

from lmtailor.cli import say
from lmtailor.cli.options import (
    MachineOptions,
    OutputOptions,
    ReadoutOptions,
    Settings,
    TaskOptions,
    TrainingOptions,
    WritingOptions,
)

_TASK, _ANSWER, _TRAINING = TaskOptions(), ReadoutOptions(), TrainingOptions()
_OUTPUT, _MACHINE, _WRITING = OutputOptions(), MachineOptions(), WritingOptions()


def run(  # noqa: PLR0913 - every argument is an option
    base: str,
    /,
    *,
    strategy: str,
    method: str | None = None,
    settings: Settings = (),
    data: TaskOptions = _TASK,
    answer: ReadoutOptions = _ANSWER,
    training: TrainingOptions = _TRAINING,
    writing: WritingOptions = _WRITING,
    output: OutputOptions = _OUTPUT,
    machine: MachineOptions = _MACHINE,
) -> None:
    """Adapt a base to a task by a strategy: a search, or several fits that end in one adapter.

    What is interrupted goes on where it was, to the same bits, when the same command is given again.

    ```
    lmtailor adapt MODEL --task card.toml --strategy autoprompt --out adapters/trigger
    lmtailor adapt MODEL --task card.toml --strategy pet --method lora --set strategy.generations=3
    lmtailor adapt MODEL --task card.toml --shots 16 --strategy lm_bff --pattern "{text} It was {mask}."
    ```

    Args:
        base: Hub id, folder or .gguf file of a pretrained model.
        strategy: The way to the adapter, such as pet, lm_bff or autoprompt.
        method: Which parameters may change in what is fitted; the strategy's own choice if none is given.
        settings: KEY=VALUE: a setting of the strategy, the method, the readout, the training or the card, such as
            strategy.generations=3 or method.rank=16. A bare name works where it is unique.
        data: What the task is.
        answer: How the base answers, if not as the strategy chooses. What the strategy searches for can be left out.
        training: How to train, if not as the strategy chooses.
        writing: How text is written where test splits are scored, by what writes. --seed is that of its draws too.
        output: What is written.
        machine: How the base is loaded.
    """
    from lmtailor.cli import answering, choices, fitting
    from lmtailor.strategies import strategy_class
    from lmtailor.strategies.adapt import adapt

    strategy_class(strategy)  # a wrong name is told before the data is read
    task = choices.the_task(data, settings, seed=training.seed)
    chosen = choices.the_strategy(task, strategy, method, answer, training, settings)
    out, decoding = fitting.place(output, task, strategy), answering.the_decoding(writing, training.seed, task)
    before = fitting.age(out)
    loaded = choices.the_base(base, machine)
    with say.stages() as tell:
        adapter = adapt(
            loaded,
            task,
            **vars(chosen),
            seed=training.seed,
            out=out,
            callbacks=fitting.loggers(output),
            tell=tell,
            overwrite=output.overwrite,
        )
    command = choices.predict_command(base, out, adapter, task, machine, decoding)
    fitting.show(loaded, task, adapter, out, before=before, decoding=decoding, command=command)
