"""`lmtailor fit`."""

from lmtailor.cli.options import (
    LossOptions,
    MachineOptions,
    MixtureOptions,
    OutputOptions,
    ReadoutOptions,
    Settings,
    TaskOptions,
    TrainingOptions,
    WritingOptions,
)

_TASK, _ANSWER, _TRAINING, _LOSS = TaskOptions(), ReadoutOptions(), TrainingOptions(), LossOptions()
_OUTPUT, _MACHINE, _MIXTURE, _WRITING = OutputOptions(), MachineOptions(), MixtureOptions(), WritingOptions()


def run(  # noqa: PLR0913 - every argument is an option
    base: str,
    /,
    *,
    method: str,
    settings: Settings = (),
    data: TaskOptions = _TASK,
    blend: MixtureOptions = _MIXTURE,
    answer: ReadoutOptions = _ANSWER,
    training: TrainingOptions = _TRAINING,
    loss: LossOptions = _LOSS,
    writing: WritingOptions = _WRITING,
    output: OutputOptions = _OUTPUT,
    machine: MachineOptions = _MACHINE,
) -> None:
    """Fit a base to a task, and save what was trained as an adapter.

    The best weights on dev are kept. An interrupted fit goes on, to the same bits, when the same command is given again.

    ```
    lmtailor fit MODEL --task card.toml --method lora --set rank=16 --out adapters/mine
    lmtailor fit MODEL --train a.csv --dev b.csv --text sentence --label label --method bitfit
    lmtailor fit MODEL --mixture mixture.toml --method lora --set mixture.hold_out=nli
    ```

    Args:
        base: Hub id, folder or .gguf file of a pretrained model.
        method: Which parameters may change; `lmtailor methods` lists them. `lora+bitfit` is both at once.
        settings: KEY=VALUE: a setting of method, readout, training, objective, mixture or task, such as rank=16 (lora.rank=16
            in a union) or task.limits.train=500, where unique by its bare name. unlabelled.weight=1e-4 models language besides.
        data: What the task is.
        blend: Many tasks at once.
        answer: How the base answers.
        training: How to train.
        loss: What is minimised.
        writing: How text is written where test splits are scored, by what writes. --seed is that of its draws too.
        output: What is written.
        machine: How the base is loaded.
    """
    from lmtailor.cli import answering, choices, fitting, mixtures
    from lmtailor.fit.fit import fit

    choices.method_classes(method)  # told before the data is read
    learned = mixtures.the_data(blend, data, settings, seed=training.seed)
    task, chosen = learned.task, choices.the_choices(learned.task, method, answer, training, loss, learned.settings)
    out, decoding = fitting.place(output, task, method), answering.the_decoding(writing, training.seed, task)
    loaded, before = choices.the_base(base, machine), fitting.age(out)
    adapter = fit(
        loaded,
        task,
        **vars(chosen),
        soft_labels=choices.the_soft_labels(loss, loaded, task),
        seed=training.seed,
        out=out,
        callbacks=fitting.listeners(output),
        watched=learned.watched,
        overwrite=output.overwrite,
    )
    command = choices.predict_command(base, out, adapter, task, machine, decoding)
    fitting.show(loaded, task, adapter, out, before=before, decoding=decoding, command=command)
