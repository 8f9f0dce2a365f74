"""Runs: secrets, checkpoints, full disks, reward functions."""

from tests.defences.defence import Defence

_ENVIRONMENT = "config/test_environment_values.py"
_CHECKPOINTS = "artifacts/test_checkpoints.py"
_LOCK = "artifacts/test_run_lock.py"
_STAGE = "run/test_stage.py"

DEFENCES = (
    # -- secrets ---------------------------------------------------------------------------------------------------
    Defence(
        "launcher.env is published by name",
        "config/compose.py",
        '    shown["launcher"]["env"] = dict.fromkeys(shown["launcher"]["env"])\n',
        "",
        f"{_ENVIRONMENT}::test_launcher_env_reaches_the_process_and_nothing_that_is_kept",
    ),
    Defence(
        "no value stands on a command line",
        "run/launchers.py",
        "    overrides = without_values(launcher, overrides)\n",
        "",
        f"{_ENVIRONMENT}::test_launcher_env_reaches_the_process_and_nothing_that_is_kept",
    ),
    Defence(
        "a value that the config reads is published as it is written",
        "config/compose.py",
        "        _replace(shown, path, written)",
        "        pass",
        f"{_ENVIRONMENT}::test_values_that_the_config_reads_from_the_environment_are_published_as_they_are_written",
    ),
    # -- checkpoints -----------------------------------------------------------------------------------------------
    Defence(
        "a flipped bit is found by its hash",
        "artifacts/checkpoints.py",
        'wrong = [name for name, entry in sorted(mark["files"].items()) if found[name] != entry]',
        "wrong = []",
        f"{_CHECKPOINTS}::test_a_damaged_file_of_the_same_size_is_found",
    ),
    Defence(
        "zeroed optimizer state goes back, not into a traceback",
        "artifacts/checkpoints.py",
        "trouble = problem(newest) or (also_best and _problem_of_best(newest)) or None",
        "trouble = None",
        "run/test_damage.py::test_damage_to_every_checkpoint_starts_the_run_over",
    ),
    Defence(
        "a damaged checkpoint is put aside, and it is said",
        "artifacts/checkpoints.py",
        '            say(f"{newest.name} is damaged ({trouble}) and was put aside; trying {places[-1].name}")',
        "            pass",
        f"{_CHECKPOINTS}::test_one_that_is_not_whole_is_never_gone_on_from",
    ),
    Defence(
        "a file that does not belong to a checkpoint is found",
        "artifacts/checkpoints.py",
        '        if odd := sorted(present.keys() ^ mark["files"].keys()):',
        "        if odd := []:",
        f"{_CHECKPOINTS}::test_a_damaged_mark_is_found",
    ),
    Defence(
        "the best checkpoint is verified too",
        "artifacts/checkpoints.py",
        "(also_best and _problem_of_best(newest))",
        "None",
        f"{_CHECKPOINTS}::test_the_best_checkpoint_is_verified_where_it_is_loaded_at_the_end",
    ),
    Defence(
        "a checkpoint without hashes is read by its sums",
        "artifacts/checkpoints.py",
        "                return archive.testzip() is None",
        "                return True",
        f"{_CHECKPOINTS}::test_a_flipped_bit_in_what_torch_saved_is_seen_by_its_sum",
    ),
    Defence(
        "a cut metrics.jsonl is brought back from the checkpoint",
        "training/resumable.py",
        "                write_durably(file, kept.read_bytes())",
        "                pass",
        "training/test_trainer.py::test_a_trainer_with_state_of_its_own_joins_in",
    ),
    Defence(
        "a cut metrics.jsonl is not published short",
        "training/tracking.py",
        "            if _size(file) < size:",
        "            if False:",
        "training/test_tracking.py::test_a_record_that_was_cut_is_not_published_short",
    ),
    Defence(
        "a best checkpoint that was damaged since is not published",
        "training/resumable.py",
        "        if trouble := ranks.share(checkpoints.problem(best) if ranks.is_main() else None):",
        "        if trouble := None:",
        "training/test_trainer.py::test_a_best_checkpoint_that_was_damaged_since_is_not_loaded",
    ),
    Defence(
        "what others may write is not loaded",
        "artifacts/checkpoints.py",
        "        if status.st_uid != os.geteuid() or status.st_mode & 0o022:",
        "        if False:",
        f"{_CHECKPOINTS}::test_what_others_may_write_is_not_loaded",
    ),
    # -- full and read-only disks ----------------------------------------------------------------------------------
    Defence(
        "a full disk leaves a record that says failed",
        "artifacts/run_lock.py",
        "                _overwrite(file, _text(self.holder))",
        "                pass",
        f"{_LOCK}::test_a_full_disk_hides_no_error_and_the_record_says_failed",
    ),
    Defence(
        "a read-only disk hides no error",
        "artifacts/run_lock.py",
        "            except OSError:\n                print(",
        "            except ZeroDivisionError:\n                print(",
        f"{_LOCK}::test_a_read_only_disk_hides_no_error_and_is_said",
    ),
    Defence(
        "a disk that takes no record is a sentence",
        "artifacts/run_lock.py",
        'with explain_disk_errors("record who runs this", run_dir):',
        "with contextlib.nullcontext():",
        f"{_LOCK}::test_a_disk_that_takes_no_record_is_a_sentence",
    ),
    Defence(
        "a disk that fills up while training is a sentence",
        "run/stage.py",
        "    if is_full(error, root):",
        "    if False:",
        f"{_STAGE}::test_a_disk_that_fills_up_while_training_is_a_sentence",
    ),
    Defence(
        "a disk that becomes read-only is a sentence",
        "run/stage.py",
        "    if error.errno == errno.EROFS or (inside and error.errno in (errno.EACCES, errno.EPERM)):",
        "    if False:",
        f"{_STAGE}::test_a_disk_that_becomes_read_only_is_a_sentence_and_recorded",
    ),
    Defence(
        "small sizes are shown as they are",
        "artifacts/text.py",
        "        if number < 999.95:\n            break\n",
        "        if unit == 'GB':\n            break\n",
        "test_cli.py::test_pieces_of_a_table",
    ),
    # -- reward functions ------------------------------------------------------------------------------------------
    Defence(
        "sys.exit is a sentence",
        "rewards/guard.py",
        "    except SystemExit as error:\n        raise",
        "    except SystemExit:\n        raise\n    except SystemError as error:\n        raise",
        "rewards/test_functions.py::test_what_a_function_may_not_do_is_a_sentence",
    ),
    Defence(
        "os._exit is a sentence",
        "rewards/guard.py",
        "    os._exit = _refuse_exit\n",
        "",
        "rewards/test_functions.py::test_what_a_function_may_not_do_is_a_sentence",
    ),
    Defence(
        "a copy made by os.fork ends",
        "rewards/guard.py",
        "        if os.getpid() != owner:",
        "        if False:",
        "rewards/test_functions.py::test_a_copy_of_the_process_ends_and_the_run_goes_on",
    ),
    Defence(
        "lists that a function changes are its own",
        "rewards/functions.py",
        "copy.deepcopy(value) if isinstance(value, list) else value",
        "value",
        "rewards/test_functions.py::test_changing_the_lists_changes_nothing_else",
    ),
    Defence(
        "any other BaseException is a sentence",
        "rewards/guard.py",
        "    except BaseException as error:",
        "    except Exception as error:",
        "rewards/test_functions.py::test_what_a_function_may_not_do_is_a_sentence",
    ),
)
