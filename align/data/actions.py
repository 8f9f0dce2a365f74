"""What `align data ...` does, a function a command; each takes the parsed command line and gives the exit status."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.errors import UserError

if TYPE_CHECKING:
    from align.data.findings import Report


def check_data(arguments: argparse.Namespace) -> int:
    """What the data is, whether it is sound, and what each stage would do with it. Nothing is written but the page."""
    from align.data.findings import dump, to_text

    reports = make_reports(arguments)
    if arguments.html:
        from align.data.page import to_html

        _write(Path(arguments.html), to_html(reports))
    print(dump(reports) if arguments.json else "\n\n".join(to_text(report) for report in reports), end="")
    if not arguments.json:
        print(f"\nwritten: {arguments.html}" if arguments.html else "")
    return 1 if any(report.at_least(arguments.strict) for report in reports) else 0


def make_reports(arguments: argparse.Namespace) -> "list[Report]":
    """A report for each group of files that are read in one way, in the order given."""
    from align.artifacts.store import Store
    from align.data.inspection import Inspection
    from align.data.intake import Reading, Source, find_sources, parse_mapping, read_outcomes, recognise_source
    from align.data.verdict import judge

    columns, labels = parse_mapping(arguments.columns, "--columns"), parse_mapping(arguments.labels, "--labels")
    store = Store.open(arguments.artifacts)
    tokenizer = _tokenizer(store, arguments.model)
    groups: dict[tuple[str, str], tuple[Reading, list[tuple[Source, str]]]] = {}
    unknown: list[UserError] = []
    for source, split in _sources(store, arguments, find_sources):
        try:
            reading = recognise_source(
                source, layout=arguments.layout, columns=columns, labels=labels, wanted=arguments.format
            )
        except UserError as error:
            unknown.append(error)
            continue
        groups.setdefault((reading.layout, reading.format), (reading, []))[1].append((source, split))
    if not groups:
        raise unknown[0]
    for error in unknown:
        print(f"left out: {error}", file=sys.stderr)
    against, _ = load_benchmarks(arguments)
    reports = []
    for reading, members in groups.values():
        seen = Inspection(reading.layout, one_file=len(members) == 1, against=against, ngram=arguments.ngram)
        for split in ("train", "eval"):
            for outcome in read_outcomes([source for source, which in members if which == split], reading):
                seen.observe(outcome, split)
        sources = [source for source, _ in members]
        reports.append(
            judge(
                seen,
                sources,
                reading,
                title=", ".join(source.name for source in sources[:3]) + (", ..." if len(sources) > 3 else ""),
                digests={source.name: source.to_manifest()["digest"] for source in sources},
                tokenizer=tokenizer,
                max_length=arguments.max_length,
            )
        )
    return reports


def import_data(arguments: argparse.Namespace) -> int:
    """Make a versioned dataset: rows in = rows used + rows refused, by reason, and the report beside the records."""
    from align.artifacts.store import Store
    from align.data.findings import to_text
    from align.data.importing import Options, import_dataset
    from align.data.intake import find_sources, parse_mapping
    from align.data.repairs import DROPS, FIXES, check_names

    if not 0 <= arguments.eval_fraction < 1:
        raise UserError(f"--eval-fraction {arguments.eval_fraction}: write a share from 0 to below 1")
    if arguments.max_rows is not None and arguments.max_rows < 1:
        raise UserError(f"--max-rows {arguments.max_rows}: write a positive number")
    against, benchmarks = load_benchmarks(arguments)
    found = {"config": arguments.config, "split": arguments.split}
    sources = find_sources(arguments.sources, **found)
    eval_sources = find_sources(arguments.eval, **found)
    if twice := {one.name for one in sources} & {one.name for one in eval_sources}:
        sources = [one if one.name not in twice else _with_folder(one) for one in sources]
        eval_sources = [one if one.name not in twice else _with_folder(one) for one in eval_sources]
        if {one.name for one in sources} & {one.name for one in eval_sources}:
            raise UserError(f"{sorted(twice)[0]} is given both to train and to evaluate on: name another --eval")
    options = Options(
        format=arguments.format,
        layout=arguments.layout,
        columns=parse_mapping(arguments.columns, "--columns"),
        labels=parse_mapping(arguments.labels, "--labels"),
        eval_fraction=arguments.eval_fraction,
        max_rows=arguments.max_rows,
        fix=check_names(arguments.fix, FIXES, "--fix"),
        drop=check_names(arguments.drop, DROPS, "--drop"),
        ngram=arguments.ngram,
        refuse=arguments.refuse,
        allow=tuple(name for given in arguments.allow for name in given.split(",")),
    )
    version, report = import_dataset(
        Store.open(arguments.artifacts),
        arguments.name,
        sources,
        eval_sources,
        against=against,
        benchmarks=benchmarks,
        options=options,
    )
    if report is None:
        print(f"nothing to do: {version.ref} was made of just this  ({version.path})")
        return 0
    print(to_text(report))
    for what, count in version.manifest.notes["repairs"].items():
        print(f"{what}: {count}")
    print(f"published {version.ref}  ({version.path})")
    return 0


def load_benchmarks(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, str]]:
    """Name -> n-grams, and name -> digest, of the files of --against. Raises UserError."""
    if arguments.ngram < 2:
        raise UserError(f"--ngram {arguments.ngram}: write 2 or more words")
    if not arguments.against:
        return {}, {}
    from align.data.inspection import benchmark_grams, strings_in
    from align.data.intake import find_sources
    from align.data.readers import Unreadable

    grams, digests = {}, {}
    for source in find_sources(arguments.against):
        rows = (row.value if isinstance(row, Unreadable) else row for _, row in source.rows())
        grams[source.name] = benchmark_grams((text for row in rows for text in strings_in(row)), arguments.ngram)
        digests[source.name] = source.to_manifest()["digest"]
    return grams, digests


def make_data(arguments: argparse.Namespace) -> int:
    """Make a dataset out of datasets: mixed by weight, split by prompt, filtered; every record is accounted for."""
    from align.artifacts.inputs import resolve_input
    from align.artifacts.store import Store
    from align.data.findings import to_text
    from align.data.importing import Options
    from align.data.making import Part, Recipe, make_dataset
    from align.data.repairs import DROPS, check_names

    if arguments.eval_fraction is not None and not 0 <= arguments.eval_fraction < 1:
        raise UserError(f"--eval-fraction {arguments.eval_fraction}: write a share from 0 to below 1")
    if arguments.rows is not None and arguments.rows < 1:
        raise UserError(f"--rows {arguments.rows}: write a positive number")
    store = Store.open(arguments.artifacts)
    parts = [Part.parse(text) for text in arguments.parts]
    given = [(part, resolve_input(store, part.ref, repo_type="dataset")) for part in parts]
    against, benchmarks = load_benchmarks(arguments)
    version, report = make_dataset(
        store,
        arguments.name,
        given,
        Recipe(
            format=arguments.format,
            rows=arguments.rows,
            eval_fraction=arguments.eval_fraction,
            min_chars=arguments.min_chars,
            max_chars=arguments.max_chars,
            languages=tuple(one.strip() for one in arguments.languages.split(",") if one.strip()),
            drop=check_names(
                arguments.drop, {name: DROPS[name] for name in DROPS if name != "contradictions"}, "--drop"
            ),
            system=arguments.system,
            ngram=arguments.ngram,
            seed=arguments.seed,
        ),
        against=against,
        benchmarks=benchmarks,
        options=Options(refuse=arguments.refuse, allow=tuple(n for one in arguments.allow for n in one.split(","))),
    )
    if report is None:
        print(f"nothing to do: {version.ref} was made of just this  ({version.path})")
        return 0
    print(to_text(report))
    for part in version.manifest.notes["parts"]:
        left_out = "".join(f", {count} left out: {why}" for why, count in part["left_out"].items())
        print(f"{part['ref']}: {part['records_in']} records, {part['train']} train, {part['eval']} eval{left_out}")
    print(f"published {version.ref}  ({version.path})")
    return 0


def show_data(arguments: argparse.Namespace) -> int:
    """Records as a stage's model sees them: template rendered, tokens counted, and which of them carry the loss."""
    import json
    from itertools import islice

    from align.artifacts.store import Store
    from align.config import compose
    from align.config.schema import STAGES
    from align.data.intake import find_sources, parse_mapping, read_outcomes, recognise_source
    from align.data.loss import Loss
    from align.data.showing import show_record, to_json, to_terminal

    if arguments.rows < 1 or arguments.skip < 0:
        raise UserError(f"--rows {arguments.rows} --skip {arguments.skip}: write a positive number, and 0 or more")
    store = Store.open(arguments.artifacts)
    tokenizer = _tokenizer(store, arguments.model or "sft:latest", arguments.chat_template)
    trainer = compose([f"stage={arguments.stage}", *arguments.set]).trainer
    length = arguments.max_length or trainer.get("max_length")
    source, _ = _sources(store, arguments, find_sources)[0]
    reading = recognise_source(
        source,
        layout=arguments.layout,
        columns=parse_mapping(arguments.columns, "--columns"),
        labels=parse_mapping(arguments.labels, "--labels"),
        wanted=arguments.format or STAGES[arguments.stage].formats[0],
    )
    color = arguments.color == "always" or (arguments.color == "auto" and sys.stdout.isatty())
    records = ((outcome, record) for outcome in read_outcomes([source], reading) for record in outcome.records)
    told = []
    for outcome, record in islice(records, arguments.skip, arguments.skip + arguments.rows):
        if not isinstance(record.to_row().get("prompt", ""), str) and tokenizer.chat_template is None:
            raise UserError(
                f"{source.name} is conversational and the tokenizer has no chat template; give one: "
                "--chat-template conf/model/chat.jinja"
            )
        shown = show_record(record, tokenizer, arguments.stage, length, Loss.of(trainer))
        if arguments.json:
            sequences = [to_json(one, tokenizer) for one in shown]
            told.append({"file": outcome.file, "row": outcome.row, "sequences": sequences})
            continue
        print(f"--- {outcome.file} row {outcome.row}")
        for one in shown:
            print(to_terminal(one, tokenizer, color=color, tokens=arguments.tokens), end="\n\n")
        told.append({})
    if not told:
        raise UserError(f"{source.name}: no {reading.format} record is left to show after {arguments.skip}")
    if arguments.json:
        print(json.dumps(told, ensure_ascii=False))
    elif not color:
        print("[[with loss]] ~~cut by max_length~~")
    return 0


def list_rules(arguments: argparse.Namespace) -> int:
    """The layouts that are known, and the names that --fix and --drop take."""
    from align.data.formats import LAYOUTS
    from align.data.repairs import DROPS, FIXES

    print("layouts (--layout)")
    for name, layout in LAYOUTS.items():
        print(f"  {name:<22} {(layout.__doc__ or '').strip().splitlines()[0]}")
    print("repairs of text (--fix); what was there before is kept in repairs.jsonl")
    for name, (what, _) in FIXES.items():
        print(f"  {name:<22} {what}")
    print("records left out (--drop); they are kept in repairs.jsonl")
    for name, what in DROPS.items():
        print(f"  {name:<22} {what}")
    return 0


def _sources(store: Any, arguments: argparse.Namespace, find: Any) -> list[tuple[Any, str]]:
    """Files and the split each is: a dataset artifact has two, anything else is train."""
    from align.artifacts.refs import is_ref
    from align.data.intake import Source
    from align.data.readers import READERS, kind_of_file

    found: list[tuple[Any, str]] = []
    for name in arguments.sources:
        if is_ref(name) and kind_of_file(Path(name)) not in READERS and not Path(name).exists():
            version = store.resolve(name)
            if version.manifest.type != "dataset":
                raise UserError(f"{version.ref} is a {version.manifest.type}: name a dataset, a file or a folder")
            files = [(version.path / "records" / f"{split}.jsonl", split) for split in ("train", "eval")]
            found += [(Source(f"{version.ref} {split}", file), split) for file, split in files if file.is_file()]
        else:
            given = find([name], config=arguments.config, split=arguments.split)
            found += [(source, "train") for source in given]
    return found


def _with_folder(source: Any) -> Any:
    from dataclasses import replace

    return replace(source, name=str(source.path)) if source.path is not None else source


def _tokenizer(store: Any, model: str | None, chat_template: str | None = None) -> Any:
    if model is None:
        return None
    from align.artifacts.inputs import resolve_input

    try:
        given = resolve_input(store, model)
    except UserError as error:
        raise UserError(f"{error} (name a model whose tokenizer to use: --model)") from None
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(given.path), local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(f"--model {model}: {given.path} holds no tokenizer that can be loaded ({error})") from error
    if chat_template is not None:
        if not Path(chat_template).is_file():
            raise UserError(f"--chat-template {chat_template}: there is no such file")
        tokenizer.chat_template = Path(chat_template).read_text("utf-8")
    return tokenizer


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
