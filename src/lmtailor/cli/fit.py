"""`lmtailor fit`."""

from lmtailor.cli.options import (
    LossOptions,
    MachineOptions,
    OutputOptions,
    ReadoutOptions,
    Settings,
    TaskOptions,
    TrainingOptions,
)

_TASK, _ANSWER, _TRAINING, _LOSS = TaskOptions(), ReadoutOptions(), TrainingOptions(), LossOptions()
_OUTPUT, _MACHINE = OutputOptions(), MachineOptions()


def run(  # noqa: PLR0913 - every argument is an option
    base: str,
    /,
    *,
    method: str,
    settings: Settings = (),
    data: TaskOptions = _TASK,
    answer: ReadoutOptions = _ANSWER,
    training: TrainingOptions = _TRAINING,
    loss: LossOptions = _LOSS,
    output: OutputOptions = _OUTPUT,
    machine: MachineOptions = _MACHINE,
) -> None:
    """Fit a base to a task, and save what was trained as an adapter.

    The best weights on dev are kept. An interrupted fit goes on, to the same bits, when the same command is given again.

    ```
    lmtailor fit MODEL --task card.toml --method lora --set rank=16 --out adapters/mine
    lmtailor fit MODEL --train a.csv --dev b.csv --text sentence --label label --method bitfit
    lmtailor fit MODEL --task card.toml --method bitfit --objective distillation --soft-labels adapters/mine
    ```

    Args:
        base: Hub id, folder or .gguf file of a pretrained model.
        method: Which parameters may change; `lmtailor methods` lists them. `lora+bitfit` is both at once.
        settings: KEY=VALUE: a setting of the method, the readout, the training, the objective or the card, such as
            method.rank=16 (in a union lora.rank=16), readout.pooling=mean, training.patience=3, objective.label_smoothing=0.1 or
            task.limits.train=500. A bare name works where it is unique. A setting of unlabelled, always in full, such as
            unlabelled.weight=1e-4, adds language modelling on the unlabelled texts.
        data: What the task is.
        answer: How the base answers.
        training: How to train.
        loss: What is minimised.
        output: What is written.
        machine: How the base is loaded.
    """
    from lmtailor.cli import choices, fitting
    from lmtailor.fit.callbacks.console import ConsoleCallback
    from lmtailor.fit.fit import fit

    choices.method_classes(method)  # a wrong name is told before the data is read
    task = choices.the_task(data, settings, seed=training.seed)
    chosen = choices.the_choices(task, method, answer, training, loss, settings)
    out = fitting.place(output, task, method)
    before = fitting.age(out)
    loaded = choices.the_base(base, machine)
    adapter = fit(
        loaded,
        task,
        **vars(chosen),
        soft_labels=choices.the_soft_labels(loss, loaded, task),
        seed=training.seed,
        out=out,
        callbacks=[ConsoleCallback(), *fitting.loggers(output)],
        overwrite=output.overwrite,
    )
    fitting.tell_kept(out, before, "fit", "trained")
    fitting.show_scores(loaded, task, adapter)
    fitting.show_adapter(adapter, out, choices.predict_command(base, out, task, machine))
