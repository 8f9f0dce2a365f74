"""The API against its own description: whatever is sent, what comes back is what the description says."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from align.review import security
from align.review.app import create_app
from align.review.rate_limits import RATES, Limiter, Rate
from align.review.store import people

from .conftest import ORIGIN, SECRET, World

pytestmark = pytest.mark.slow


def test_the_api_keeps_to_its_description(small_world: World):
    small_world.review.limiter = Limiter(rates=dict.fromkeys(RATES, Rate(burst=10**9, interval=0.0)))
    into = small_world.campaign("spring", count=200)
    rater = small_world.person("rater", into)
    token = security.new_token()
    small_world.do(people.add_session, security.digest(token), rater.id, now=0.0, expires=small_world.clock() + 1e6)
    headers = {
        "host": "127.0.0.1",
        "origin": ORIGIN,
        "cookie": f"align_session={token}",
        "x-csrf-token": security.csrf_token(SECRET, token),
    }
    app = create_app(small_world.review, quiet=True)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=headers)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == 4
    for operation in operations:
        statuses = answers_of(operation, headers)
        assert statuses & {200, 409, 422} and statuses <= {200, 400, 401, 403, 404, 408, 409, 413, 421, 422, 429}


def answers_of(operation: schemathesis.APIOperation, headers: dict[str, str]) -> set[int]:
    """The statuses that come back; each answer is held against the description, with every check on."""
    statuses: set[int] = set()

    @given(case=operation.as_strategy(), known=st.booleans())
    @settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    def check(case: schemathesis.Case, known: bool) -> None:
        if known:  # what there is, so that more than "there is nothing here" answers
            there = {"campaign": "spring", "number": 1}
            case.path_parameters = {name: there[name] for name in case.path_parameters}
            if isinstance(case.body, dict) and case.body.get("answers"):
                case.body["answers"] = {}  # the campaign asks no questions, which a description of all cannot say
        answer = case.call(headers=headers)
        statuses.add(answer.status_code)
        case.validate_response(answer)

    check()
    return statuses
