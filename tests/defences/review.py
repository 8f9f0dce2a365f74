"""The review app: authorisation, idempotency, signing in, resources, downloads."""

from tests.defences.defence import Defence

_ROLES = "review/test_roles.py"
_EVERY_ROUTE = f"{_ROLES}::test_every_route_lets_in_its_role_alone_wherever_the_token_is"
_RATINGS = "review/test_ratings.py"
_RATES = "review/test_rate_limits.py"
_LOADING = "review/test_loading.py"

DEFENCES = (
    # -- authorisation before anything else ------------------------------------------------------------------------
    Defence(
        "who may use a route is asked before its body is read",
        "review/access.py",
        "            await authorize(request, role, limit)\n            return await handler(request)",
        "            return await handler(request)",
        _EVERY_ROUTE,
    ),
    Defence(
        "admin work is for admins",
        "review/access.py",
        "if role is Role.ADMIN and not person.is_admin:",
        "if False:",
        _EVERY_ROUTE,
    ),
    Defence(
        "the token counts in the header as in the form",
        "review/access.py",
        "    if changes:\n        await _check_token(request)",
        '    if changes and "x-csrf-token" not in request.headers:\n        await _check_token(request)',
        _EVERY_ROUTE,
    ),
    Defence(
        "a request from another site is not read",
        "review/access.py",
        "    if changes:\n        _check_origin(request)\n",
        "",
        f"{_ROLES}::test_no_route_reads_what_comes_from_another_site",
    ),
    Defence(
        "every route declares a role",
        "review/routes/settings.py",
        'APIRouter(prefix="/admin", route_class=AdminRoute, include_in_schema=False)',
        'APIRouter(prefix="/admin", include_in_schema=False)',
        f"{_ROLES}::test_every_route_declares_a_role",
    ),
    # -- idempotency keys ------------------------------------------------------------------------------------------
    Defence(
        "a key of another request is a conflict",
        "review/store/assignment.py",
        "        if self.kind not in kinds or any(getattr(self, name) != value for name, value in values.items()):",
        "        if False:",
        f"{_RATINGS}::test_over_http_a_reused_key_is_a_conflict",
    ),
    Defence(
        "also of a decision",
        "review/store/ratings.py",
        '        earlier.check("adjudicate", item_id=item_id, verdict=verdict, reason=reason)',
        "        pass",
        f"{_RATINGS}::test_a_decision_with_the_key_of_another_is_refused",
    ),
    Defence(
        "also of a skip",
        "review/store/ratings.py",
        '        earlier.check("skip", assignment_id=held.id, reason=sent.reason, flag=sent.flag)',
        "        pass",
        f"{_RATINGS}::test_the_key_of_another_request_is_refused_and_nothing_is_lost",
    ),
    # -- signing in ------------------------------------------------------------------------------------------------
    Defence(
        "wrong passwords lock no name out",
        "review/rate_limits.py",
        "patience=2.0, refuses=False)",
        "patience=2.0)",
        f"{_RATES}::test_nobody_locks_out_a_name_they_know",
    ),
    Defence(
        "guessing is slowed down",
        "review/routes/accounts.py",
        "    await review.limiter.hit(*uses)\n",
        "",
        f"{_RATES}::test_guessing_a_password_is_slowed_down_and_the_right_one_still_works",
    ),
    Defence(
        "one account from one address has a limit of its own",
        "review/routes/accounts.py",
        '        ("login-address-account", f"{address} {account}"),\n',
        "",
        f"{_RATES}::test_guessing_a_password_is_slowed_down_and_the_right_one_still_works",
    ),
    Defence(
        "a trusted proxy names the visitor",
        "review/server.py",
        "proxy_headers=bool(trusted_proxies)",
        "proxy_headers=False",
        f"{_RATES}::test_a_trusted_proxy_names_the_visitor",
    ),
    Defence(
        "invitations are counted apart",
        "review/routes/accounts.py",
        'use = ("invite", _network(request))',
        'use = ("login-address", _network(request))',
        f"{_RATES}::test_invitations_are_counted_apart_and_only_those_that_are_not_known",
    ),
    # -- the review app's resources --------------------------------------------------------------------------------
    Defence(
        "the head of a request has a size",
        "review/server.py",
        "        return self._head_bytes > HEAD_BYTES or self._head_fields > HEAD_FIELDS",
        "        return False",
        "review/test_server.py::test_a_head_that_is_too_large_is_refused",
    ),
    Defence(
        "the head of a request has a time",
        "review/server.py",
        "self._head = self.loop.call_later(HEAD_SECONDS, self.transport.close)",
        "pass",
        "review/test_server.py::test_a_head_that_does_not_arrive_ends_the_connection",
    ),
    Defence(
        "one row makes no 400 thousand comparisons",
        "review/loading.py",
        "    if len(comparison.answers) > MOST_ANSWERS:",
        "    if False:",
        f"{_LOADING}::test_a_line_that_is_too_much_is_refused_with_its_number",
    ),
    Defence(
        "a file has so many pairs",
        "review/loading.py",
        "        if pairs > MOST_PAIRS:",
        "        if False:",
        f"{_LOADING}::test_a_file_of_too_many_pairs_is_refused_before_it_is_read_whole",
    ),
    Defence(
        "raters are served during a load",
        "review/loading.py",
        "            if size >= BATCH or at == len(self.entries) - 1:",
        "            if at == len(self.entries) - 1:",
        f"{_LOADING}::test_a_load_is_many_transactions_with_raters_in_between",
    ),
    Defence(
        "half a surrogate pair in an uploaded row is no error",
        "review/loading.py",
        "    except UnicodeEncodeError:",
        "    except ZeroDivisionError:",
        f"{_LOADING}::test_a_line_that_is_too_much_is_refused_with_its_number",
    ),
    Defence(
        "half a surrogate pair in a form is no error",
        "review/security.py",
        'token.encode("utf-8", "replace")',
        "token.encode()",
        f"{_LOADING}::test_a_token_in_another_encoding_is_wrong_and_no_error",
    ),
    Defence(
        "rendering has a budget",
        "review/rendering.py",
        '    if env["budget"].steps < 0:',
        "    if False:",
        "review/test_rendering.py::test_a_text_takes_a_bounded_number_of_steps",
    ),
    Defence(
        "pages are rendered off the event loop",
        "review/dependencies.py",
        "await run_in_threadpool(review.templates.get_template(template).render, shared | values)",
        "review.templates.get_template(template).render(shared | values)",
        "review/test_rendering.py::test_pages_are_rendered_off_the_event_loop",
    ),
    Defence(
        "a database that is locked for long is 503",
        "review/app.py",
        "    app.add_exception_handler(DatabaseUnavailable, _unavailable)\n",
        "",
        "review/test_database.py::test_a_database_that_is_locked_for_long_is_answered_with_503",
    ),
    Defence(
        "a Host that only begins like ours is refused",
        "review/middleware.py",
        "_HOST.fullmatch(",
        "_HOST.match(",
        "review/test_access.py::test_any_other_host_is_refused",
    ),
    # -- formulas --------------------------------------------------------------------------------------------------
    Defence(
        "a cell after a semicolon is no formula",
        "review/downloads.py",
        '_SEPARATORS = ";\\t\\r\\n"',
        '_SEPARATORS = "\\t\\r\\n"',
        "review/test_input.py::test_no_cell_of_a_csv_is_a_formula_whatever_separates_cells",
    ),
    Defence(
        "looking for formulas takes a time that grows with the cell alone",
        "review/downloads.py",
        """(^[\\s"';]*|[\\s"';]+)([=+\\-@|%＝＋－＠]?)""",
        """(?:^|[;\\t\\r\\n])[\\s"']*([=+\\-@|%＝＋－＠])()""",
        "review/test_input.py::test_a_cell_of_line_ends_takes_no_time",
    ),
)
