"""The store: gc, verification by every reader, foreign versions, remotes."""

from tests.defences.defence import Defence

_GC = "artifacts/test_gc.py"
_READERS = "artifacts/test_readers.py"
_FOREIGN = "artifacts/test_foreign.py"
_UNREADABLE = f"{_FOREIGN}::test_a_version_that_cannot_be_read_is_out_of_the_way"
_REMOTE = "artifacts/test_hostile_remote.py"
_LOADING = "review/test_loading.py"

DEFENCES = (
    # -- gc --------------------------------------------------------------------------------------------------------
    Defence(
        "an input is claimed when it is resolved",
        "artifacts/inputs.py",
        "version = store.claim(store.resolve(text, maker=maker))",
        "version = store.resolve(text, maker=maker)",
        f"{_GC}::test_an_input_is_kept_from_the_moment_it_is_resolved",
    ),
    Defence(
        "what a command reads is claimed",
        "artifacts/verification.py",
        "version = store.claim(store.resolve(ref, maker=maker))",
        "version = store.resolve(ref, maker=maker)",
        f"{_GC}::test_a_version_that_is_read_is_kept",
    ),
    Defence(
        "a run that has begun claims its inputs",
        "run/stage.py",
        "        claim_inputs(root, plan.to_manifest(), plan.identity)\n",
        "",
        f"{_GC}::test_a_run_claims_its_inputs_before_it_verifies_them",
    ),
    Defence(
        "gc looks again after it has hidden a version",
        "artifacts/gc.py",
        "if _wanted(store, plan, version.ref):\n                        os.rename(trash, version.path)",
        "if False:\n                        os.rename(trash, version.path)",
        f"{_GC}::test_a_claim_after_the_first_look_is_seen_by_the_second",
    ),
    Defence(
        "gc announces that a version may go",
        "artifacts/gc.py",
        "    announcement.touch()\n",
        "",
        f"{_GC}::test_a_claimed_version_never_vanishes",
    ),
    Defence(
        "gc deletes only what no other collection can bring back",
        "artifacts/gc.py",
        "                    os.rename(trash, condemned)\n",
        "                    condemned = trash\n",
        f"{_GC}::test_a_version_that_is_being_deleted_is_not_brought_back",
    ),
    Defence(
        "claiming a version that is gone is an error",
        "artifacts/store.py",
        "        if not self._is_there(version):\n            gone = read_removal",
        "        if False:\n            gone = read_removal",
        f"{_GC}::test_who_claims_a_version_that_is_being_removed_is_told",
    ),
    Defence(
        "a fresh version is never without alias and claim",
        "artifacts/store.py",
        "with claims.claimed(self.root, sealed.name, number):",
        "with contextlib.nullcontext():",
        f"{_GC}::test_a_version_is_never_without_alias_and_claim",
    ),
    Defence(
        "a file lost while publishing is never said to be published",
        "artifacts/publishing.py",
        'if not (path / inside).is_file() or (path / inside).stat().st_size != entry["size"]:',
        "if False:",
        f"{_GC}::test_a_file_lost_while_publishing_is_never_said_to_be_published",
    ),
    Defence(
        "a folder that a live process fills is no leftover",
        "artifacts/leftovers.py",
        "        if alive:\n            continue\n",
        "",
        f"{_GC}::test_leftovers_of_what_died",
    ),
    # -- every reader verifies -------------------------------------------------------------------------------------
    Defence(
        "align data make verifies what it reads",
        "artifacts/verification.py",
        "    verify_input(store, resolved, mode=mode, below_gb=below_gb)\n    return resolved",
        "    return resolved",
        f"{_READERS}::test_a_command_refuses_altered_rows[make]",
    ),
    Defence(
        "align review load verifies what it reads",
        "review/loading.py",
        'open_input(store, text, maker="deepspeed launch/run.py stage=sample")',
        'open_input(store, text, mode="off", maker="deepspeed launch/run.py stage=sample")',
        f"{_LOADING}::test_altered_comparisons_do_not_come_into_a_campaign",
    ),
    Defence(
        "a stage verifies its inputs",
        "run/preflight.py",
        "    verify_inputs(plan)\n",
        "",
        "artifacts/test_verification.py::test_a_stage_refuses_an_input_whose_bits_have_flipped",
    ),
    Defence(
        "there is one way to open a version",
        "review/actions.py",
        "open_version(store, arguments.ref)",
        "store.resolve(arguments.ref)",
        f"{_READERS}::test_nothing_else_resolves_a_version_without_verifying_it",
    ),
    Defence(
        "what was replaced since it was resolved is refused",
        "artifacts/verification.py",
        "    if finding.digest != version.digest:",
        "    if False:",
        f"{_READERS}::test_a_version_that_was_replaced_after_it_was_resolved_is_refused",
    ),
    # -- foreign versions ------------------------------------------------------------------------------------------
    Defence(
        "a folder named manifest.json",
        "artifacts/disk.py",
        "        if not stat.S_ISREG(status.st_mode):",
        "        if False:",
        f"{_UNREADABLE}[a folder]",
    ),
    Defence(
        "a manifest of 100,000 brackets",
        "artifacts/manifest.py",
        "        except RecursionError:",
        "        except ZeroDivisionError:",
        f"{_UNREADABLE}[100,000 brackets]",
    ),
    Defence(
        "another user's umask: a version",
        "artifacts/index.py",
        "            except OSError as error:\n                yield unreadable(file, error)",
        "            except ZeroDivisionError as error:\n                yield unreadable(file, error)",
        f"{_FOREIGN}::test_a_version_of_another_user",
    ),
    Defence(
        "another user's umask: a name",
        "artifacts/store.py",
        "            with contextlib.suppress(UserError):\n                contents.append",
        "            with contextlib.nullcontext():\n                contents.append",
        f"{_FOREIGN}::test_folders_of_another_user[theirs]",
    ),
    Defence(
        "gc keeps what it cannot read and goes on",
        "artifacts/gc.py",
        "            except UserError as error:\n                plan.problems.append",
        "            except ZeroDivisionError as error:\n                plan.problems.append",
        f"{_UNREADABLE}[empty]",
    ),
    Defence(
        "a stage starts beside it",
        "artifacts/store.py",
        "if isinstance(summary, Summary) and summary.identity == identity:",
        "if summary.identity == identity:",
        f"{_FOREIGN}::test_a_stage_starts_beside_a_version_that_cannot_be_read",
    ),
    # -- remote manifests ------------------------------------------------------------------------------------------
    Defence(
        "a size that is a lie is refused",
        "artifacts/transfer.py",
        '        if size is not None and size != entry["size"]:',
        "        if False:",
        f"{_REMOTE}::test_a_size_that_is_a_lie_is_refused_before_anything_is_fetched",
    ),
    Defence(
        "a size that only the listing confirms is refused",
        "artifacts/remote.py",
        ' or target.stat().st_size != entry["size"]:',
        ":",
        f"{_REMOTE}::test_a_size_that_only_the_remote_store_confirms_is_refused",
    ),
    Defence(
        "gc counts the bytes on the disk",
        "artifacts/gc.py",
        "sizes = {ref: size_on_disk(version.path) for",
        "sizes = {ref: version.manifest.size for",
        f"{_GC}::test_sizes_are_those_on_the_disk_and_not_what_a_manifest_says",
    ),
    Defence(
        "a manifest.json among the files is refused",
        "artifacts/manifest.py",
        "        if path.casefold() == MANIFEST_FILE:",
        "        if False:",
        f"{_REMOTE}::test_a_manifest_that_no_run_writes_is_refused",
    ),
)
