// The rating screen. What a rater sends is first written to an outbox in this browser and leaves it when the server
// has said that it is kept; each carries an idempotency key, so sending it again never counts twice.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const screen = $("screen");
  if (!screen) return;
  const campaign = screen.dataset.campaign;
  const base = `/api/campaigns/${encodeURIComponent(campaign)}`;
  const store = `align:${screen.dataset.rater}:${campaign}`;
  const outboxName = `${store}:outbox`;
  const form = $("form");
  const messages = JSON.parse(screen.dataset.messages); // in the language of the page: see messages.py
  const say = (key, values = {}) => messages[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
  const progress = $("progress");
  const waits = [1, 2, 4, 8, 15, 30]; // seconds between attempts
  let task = null;
  let shown = 0;
  let failures = 0;
  let timer = 0;
  let sending = false;
  let keysOn = read("align:keys", true);

  function read(name, otherwise) {
    try {
      const text = localStorage.getItem(name);
      return text === null ? otherwise : JSON.parse(text);
    } catch {
      return otherwise;
    }
  }
  function write(name, value) {
    try {
      if (value === null) localStorage.removeItem(name);
      else localStorage.setItem(name, JSON.stringify(value));
    } catch {
      tell(say("no_storage"), "warn");
    }
  }
  function newKey() {
    const bytes = crypto.getRandomValues(new Uint8Array(18));
    return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_");
  }
  function tell(text, kind = "") {
    const notice = $("notice");
    notice.textContent = text;
    notice.className = `notice ${kind}`;
    notice.hidden = !text;
  }

  // -- the outbox ------------------------------------------------------------------------------------------------

  function post(path, body) {
    write(outboxName, [...read(outboxName, []), { path, body }]);
    drain();
  }

  async function drain() {
    if (sending) return;
    sending = true;
    clearTimeout(timer);
    screen.setAttribute("aria-busy", "true");
    try {
      let waiting = read(outboxName, []);
      do {
        const next = waiting[0] ?? { path: "/next", body: null };
        const answer = await send(next);
        if (answer === null) return;
        waiting = read(outboxName, []);
        if (next.body !== null) {
          waiting = waiting.filter((one) => one.body.key !== next.body.key);
          write(outboxName, waiting.length ? waiting : null);
        }
        if (!waiting.length) show(answer);
      } while (waiting.length);
    } finally {
      sending = false;
    }
  }

  // The server's answer; null where it could not be had and will be asked for again.
  async function send({ path, body }) {
    let response;
    try {
      response = await fetch(base + path, {
        method: "POST",
        headers: { "Content-Type": "application/json", "X-CSRF-Token": document.querySelector('meta[name="csrf"]').content },
        body: body === null ? undefined : JSON.stringify(body),
        signal: AbortSignal.timeout(20000),
      });
    } catch {
      return later(say("offline"));
    }
    if (response.status >= 500 || response.status === 429 || response.status === 408) {
      return later(say("server_busy"), Number(response.headers.get("Retry-After")));
    }
    if (response.status === 401 || response.status === 403) {
      tell(say("sign_in_again"), "warn");
      return null;
    }
    failures = 0;
    if (response.ok) {
      const answer = await response.json();
      tell(answer.late ? say("late") : "");
      return answer;
    }
    const problem = await response.json().catch(() => ({ detail: say("not_accepted") }));
    // It will never be taken: let it go, say so, and see what is next.
    if (body !== null) {
      write(outboxName, read(outboxName, []).filter((one) => one.body.key !== body.key));
      const answer = await send({ path: "/next", body: null });
      if (task && answer?.task?.assignment === task.assignment) keep(); // what is on the screen is a draft again
      tell(problem.detail, "warn");
      return answer;
    }
    tell(problem.detail, "warn");
    return null;
  }

  // Try again after a while: the server may say when.
  function later(text, seconds = 0) {
    tell(text, "warn");
    timer = setTimeout(drain, 1000 * Math.max(seconds || 0, waits[Math.min(failures, waits.length - 1)]));
    failures += 1;
    return null;
  }

  // -- one item --------------------------------------------------------------------------------------------------

  function show(answer) {
    const known = task && answer.task && task.assignment === answer.task.assignment;
    count(answer.done);
    screen.setAttribute("aria-busy", "false");
    if (known) return;
    task = answer.task;
    $("task").hidden = !task;
    $("end").hidden = Boolean(task);
    if (!task) {
      const [title, words] = {
        open: ["done_title", "done_text"],
        paused: ["paused_title", "paused_text"],
        closed: ["closed_title", "closed_text"],
      }[answer.state];
      $("end-title").textContent = say(title);
      $("end-text").textContent = say(words);
      $("end").focus();
      return;
    }
    // Made safe by the server: Markdown without HTML, then a sanitizer.
    $("prompt").innerHTML = task.prompt;
    $("left").innerHTML = task.left;
    $("right").innerHTML = task.right;
    for (const card of document.querySelectorAll(".answer, .prompt")) card.scrollTop = 0;
    form.reset();
    fill(read(draftName(), null) ?? task.previous);
    mark();
    shown = performance.now();
    window.scrollTo(0, 0);
    $("prompt-card").focus({ preventScroll: true });
  }

  function count(done) {
    progress.value = done;
    if (done > progress.max) progress.max = done;
    $("count").textContent = say("progress_count", { done, total: progress.max });
  }

  const draftName = () => `${store}:draft:${task.assignment}`;

  function said() {
    const answers = {};
    for (const field of form.querySelectorAll("[data-question]")) {
      const chosen = field.querySelector("input:checked");
      if (chosen) answers[field.dataset.question] = chosen.value;
    }
    return {
      verdict: form.elements.verdict.value || null,
      answers,
      reason: $("reason").value,
      flag: $("flag").checked,
    };
  }

  function fill(what) {
    if (!what) return;
    if (what.verdict) form.elements.verdict.value = what.verdict;
    for (const [name, value] of Object.entries(what.answers ?? {})) {
      for (const input of form.querySelectorAll(`[data-question="${CSS.escape(name)}"] input`)) {
        input.checked = input.value === value;
      }
    }
    $("reason").value = what.reason ?? "";
    $("flag").checked = Boolean(what.flag);
  }

  // The answer that is chosen is seen to be, also without colour.
  function mark() {
    const verdict = form.elements.verdict.value;
    $("card-a").classList.toggle("chosen", verdict === "a" || verdict === "slight_a" || verdict === "both_good");
    $("card-b").classList.toggle("chosen", verdict === "b" || verdict === "slight_b" || verdict === "both_good");
    $("card-a").classList.toggle("bad", verdict === "both_bad");
    $("card-b").classList.toggle("bad", verdict === "both_bad");
  }

  function keep() {
    if (task) write(draftName(), said());
    mark();
  }

  function submit() {
    if (!task || sending) return;
    const rating = said();
    if (!rating.verdict) return tell(say("choose_verdict"), "warn");
    const missing = [...form.querySelectorAll("[data-required]")].find((one) => !(one.dataset.question in rating.answers));
    if (missing) {
      tell(say("please_answer", { question: missing.querySelector("legend").firstChild.textContent.trim() }), "warn");
      missing.querySelector("input").focus();
      return;
    }
    const milliseconds = Math.min(Math.round(performance.now() - shown), 2147483647);
    write(draftName(), null);
    document.querySelector(".instructions")?.removeAttribute("open"); // open for the first item alone
    post(`/assignments/${task.assignment}/rating`, { ...rating, key: newKey(), milliseconds });
  }

  function skip(reason) {
    if (!task || sending || !reason) return;
    const flag = $("flag").checked;
    write(draftName(), null);
    post(`/assignments/${task.assignment}/skip`, { key: newKey(), reason, flag });
  }

  function undo() {
    if (!sending) post("/undo", { key: newKey() });
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  form.addEventListener("input", keep);
  $("skip").addEventListener("change", (event) => {
    const reason = event.target.value;
    event.target.value = "";
    skip(reason);
  });
  $("undo").addEventListener("click", undo);
  $("undo-end").addEventListener("click", undo);
  $("again").addEventListener("click", drain);
  window.addEventListener("online", drain);

  // -- keys ------------------------------------------------------------------------------------------------------

  const verdicts = ["a", "slight_a", "tie", "slight_b", "b", "both_bad", "both_good"];
  const help = $("help");
  $("help-open").addEventListener("click", () => help.showModal());
  $("keys-on").checked = keysOn;
  $("keys-on").addEventListener("change", (event) => {
    keysOn = event.target.checked;
    write("align:keys", keysOn);
  });

  const actions = {
    f: () => $("flag").click(),
    r: () => $("reason").focus(),
    s: () => {
      $("skip").focus();
      $("skip").showPicker?.();
    },
    u: undo,
    q: () => form.querySelector(".rubric input")?.focus(),
    a: () => $("card-a").focus(),
    b: () => $("card-b").focus(),
    p: () => $("prompt-card").focus(),
    "?": () => help.showModal(),
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || help.open) return;
    const target = event.target;
    const key = event.key.toLowerCase();
    if (target === $("reason")) {
      if (event.key === "Escape") target.blur();
      else if (event.key === "Enter" && !event.shiftKey) {
        event.preventDefault();
        submit();
      }
      return;
    }
    if (target.tagName === "SELECT" || !keysOn || event.repeat) return;
    if (event.key === "Enter" && !["BUTTON", "A", "SUMMARY"].includes(target.tagName)) {
      event.preventDefault();
      submit();
    } else if (/^[1-7]$/.test(event.key) && task) {
      event.preventDefault();
      form.elements.verdict.value = verdicts[Number(event.key) - 1];
      keep();
      tell("");
    } else if (Object.hasOwn(actions, key) && (task || key === "u" || key === "?")) {
      event.preventDefault();
      actions[key]();
    }
  });

  drain();
})();
