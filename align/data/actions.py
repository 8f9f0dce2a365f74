"""The commands of `align data`: each function takes the parsed command line and returns the exit status."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from align.errors import ExitCode, UserError

if TYPE_CHECKING:
    from align.artifacts.version import Version
    from align.data.layouts.parse import Reading
    from align.data.quality.findings import Report
    from align.data.readers.files import Source


def check_data(arguments: argparse.Namespace) -> int:
    """Report what the data is, whether it is sound, and what each stage would do with it."""
    from align.data.quality.findings import dump, to_text

    reports = make_reports(arguments)
    if arguments.html:
        from align.data.quality.html import to_html

        _write(Path(arguments.html), to_html(reports))
    print(dump(reports) if arguments.json else "\n\n".join(to_text(report) for report in reports), end="")
    if not arguments.json:
        print(f"\nwritten: {arguments.html}" if arguments.html else "")
    return ExitCode.FAILED if any(report.at_least(arguments.strict) for report in reports) else ExitCode.DONE


def make_reports(arguments: argparse.Namespace) -> "list[Report]":
    """One report for each group of files that are read in the same way, in the order given."""
    from dataclasses import replace

    from align.artifacts.store import Store
    from align.data.arguments import (
        check_positive,
        keep_of,
        load_benchmarks,
        load_tokenizer,
        names_of,
        split_sources,
        stage_length,
    )
    from align.data.chats import Chats
    from align.data.layouts.parse import read_outcomes
    from align.data.layouts.recognition import recognise_source
    from align.data.layouts.unread import ColumnUse
    from align.data.quality.inspection import Inspection
    from align.data.quality.report import judge

    check_positive(arguments.max_length, "--max-length")
    names, chats = names_of(arguments), Chats.of(arguments)
    store = Store.open(arguments.artifacts)
    tokenizer = load_tokenizer(store, arguments.model)
    groups: dict[tuple[str, str], tuple[Reading, list[tuple[Source, str]]]] = {}
    unknown: list[UserError] = []
    for source, split in split_sources(store, arguments):
        try:
            reading = recognise_source(
                source, layout=arguments.layout, names=names, wanted=arguments.format, keep=keep_of(arguments)
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
        use = ColumnUse(reading)
        for split in ("train", "eval"):
            for outcome in read_outcomes([source for source, which in members if which == split], reading):
                records = [chats.apply(record) for record in outcome.records]
                seen.observe(replace(outcome, records=records), split)
                use.observe(outcome)
        sources = [source for source, _ in members]
        reports.append(
            judge(
                seen,
                sources,
                reading,
                title=", ".join(source.name for source in sources[:3]) + (", ..." if len(sources) > 3 else ""),
                digests={source.name: source.to_manifest()["digest"] for source in sources},
                use=use,
                tokenizer=tokenizer,
                max_length=arguments.max_length or stage_length(tokenizer),
            )
        )
    return reports


def import_data(arguments: argparse.Namespace) -> int:
    """Make a versioned dataset with its report; every row is used, or refused and counted by reason."""
    from align.artifacts.store import Store
    from align.data.arguments import (
        check_positive,
        check_share,
        load_benchmarks,
        reading_options,
        tolerance_of,
        train_and_eval,
        words,
    )
    from align.data.build.importing import Options, import_dataset
    from align.data.quality.repairs import DROPS, FIXES, check_names

    check_share(arguments.eval_fraction, "--eval-fraction")
    check_positive(arguments.max_rows, "--max-rows")
    against, benchmarks = load_benchmarks(arguments)
    sources, eval_sources = train_and_eval(arguments)
    version, report = import_dataset(
        Store.open(arguments.artifacts),
        arguments.name,
        sources,
        eval_sources,
        against=against,
        benchmarks=benchmarks,
        options=Options(
            format=arguments.format,
            **reading_options(arguments),
            eval_fraction=arguments.eval_fraction,
            max_rows=arguments.max_rows,
            fix=check_names(words(arguments.fix), FIXES, "--fix"),
            drop=check_names(words(arguments.drop), DROPS, "--drop"),
            ngram=arguments.ngram,
        ),
        tolerance=tolerance_of(arguments),
    )
    done = version.manifest.notes["repairs"]
    return _say(version, report, [f"{what}: {count}" for what, count in done.items()])


def make_data(arguments: argparse.Namespace) -> int:
    """Make a dataset of datasets: mixed by weight, split by prompt, filtered; every record is accounted for."""
    from align.artifacts.store import Store
    from align.artifacts.verification import open_input
    from align.data.arguments import check_positive, check_share, load_benchmarks, tolerance_of, words
    from align.data.build.mix import make_dataset
    from align.data.build.recipe import Part, Recipe
    from align.data.quality.repairs import DROPS, FIXES, check_names

    check_share(arguments.eval_fraction, "--eval-fraction")
    check_positive(arguments.rows, "--rows")
    check_positive(arguments.best, "--best")
    store = Store.open(arguments.artifacts)
    parts = [Part.parse(text) for text in arguments.parts]
    given = [(part, open_input(store, part.ref, repo_type="dataset")) for part in parts]
    against, benchmarks = load_benchmarks(arguments)
    as_given = ("format", "rows", "eval_fraction", "min_chars", "max_chars", "system", "pairs", "by")
    as_given += ("min_score", "min_margin", "best", "ngram", "seed")
    version, report = make_dataset(
        store,
        arguments.name,
        given,
        Recipe(
            **{name: getattr(arguments, name) for name in as_given},
            languages=tuple(words([arguments.languages])),
            fix=check_names(words(arguments.fix), FIXES, "--fix"),
            drop=check_names(words(arguments.drop), [name for name in DROPS if name != "contradictions"], "--drop"),
        ),
        against=against,
        benchmarks=benchmarks,
        tolerance=tolerance_of(arguments),
    )
    told = []
    for part in version.manifest.notes["parts"]:
        if answers := part.get("answers"):
            told.append(f"{part['ref']}: {answers['in']} answers to {answers['prompts']} prompts, ")
            told[-1] += f"{answers['paired']} in pairs, {answers['in no pair']} in no pair"
        left_out = "".join(f", {count} left out: {why}" for why, count in part["left_out"].items())
        told.append(
            f"{part['ref']}: {part['records_in']} records, {part['train']} train, {part['eval']} eval{left_out}"
        )
    told += [f"{what}: {count}" for what, count in version.manifest.notes["repairs"].items()]
    return _say(version, report, told)


def show_data(arguments: argparse.Namespace) -> int:
    """Show records as a stage's model sees them: the rendered template, its tokens, and which carry the loss."""
    import json
    from itertools import islice

    from align.artifacts.store import Store
    from align.config.compose import compose
    from align.data.arguments import (
        check_positive,
        keep_of,
        load_tokenizer,
        names_of,
        split_sources,
        stage_length,
    )
    from align.data.chats import Chats
    from align.data.layouts.parse import read_outcomes
    from align.data.layouts.recognition import recognise_source
    from align.data.tokens.loss_mask import Loss
    from align.data.tokens.preview import show_record, to_json, to_terminal
    from align.records import columns_of
    from align.stages.spec import STAGES

    if arguments.rows < 1 or arguments.skip < 0:
        raise UserError(f"--rows {arguments.rows} --skip {arguments.skip}: write a positive number, and 0 or more")
    check_positive(arguments.max_length, "--max-length")
    store = Store.open(arguments.artifacts)
    tokenizer = load_tokenizer(store, arguments.model or "sft:latest", arguments.chat_template)
    cfg = compose([f"stage={arguments.stage}", *arguments.set])
    trainer, chosen = cfg.trainer, Chats.of(cfg.data)
    chats = Chats(chosen.as_chat or arguments.as_chat, chosen.fold_system or arguments.fold_system)
    length = arguments.max_length or trainer.get("max_length") or stage_length(tokenizer)
    source, _ = split_sources(store, arguments)[0]
    wanted = arguments.format or STAGES[arguments.stage].formats[0]
    reading = recognise_source(
        source, layout=arguments.layout, names=names_of(arguments), wanted=wanted, keep=keep_of(arguments)
    )
    color = arguments.color == "always" or (arguments.color == "auto" and sys.stdout.isatty())
    outcomes = read_outcomes([source], reading)
    records = ((outcome, chats.apply(record)) for outcome in outcomes for record in outcome.records)
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
            place = {"file": outcome.file, "row": outcome.row}
            told.append({**place, "sequences": sequences, "columns": columns_of(record)})
            continue
        print(f"--- {outcome.file} row {outcome.row}")
        for name, value in columns_of(record).items():
            print(f"column {name}: {json.dumps(value, ensure_ascii=False)}")
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
    """List the layouts, and the names that --fix and --drop take."""
    from align.data.layouts.formats import LAYOUTS, READS
    from align.data.quality.repairs import DROPS, FIXES

    print("layouts (--layout)")
    for name, layout in LAYOUTS.items():
        print(f"  {name:<22} {(layout.__doc__ or '').strip().splitlines()[0]}")
        print(f"  {'':<22} columns: {READS[name]}")
    print("repairs of text (--fix); the text before each repair is kept in repairs.jsonl")
    for name, (what, _) in FIXES.items():
        print(f"  {name:<22} {what}")
    print("reasons to leave a record out (--drop); the records are kept in repairs.jsonl")
    for name, what in DROPS.items():
        print(f"  {name:<22} {what}")
    return 0


def _say(version: "Version", report: "Report | None", told: list[str]) -> int:
    from align.data.layouts.labels import label_lines
    from align.data.quality.findings import to_text

    if report is None:
        for line in label_lines(version.manifest.notes.get("labels_read", [])):
            print(f"read as    {line}")
        print(f"nothing to do: {version.ref} was made of the same data and options  ({version.path})")
        return 0
    print("\n".join([to_text(report), *told, f"published {version.ref}  ({version.path})"]))
    return 0


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
