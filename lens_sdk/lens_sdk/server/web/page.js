const $ = (id) => document.getElementById(id);
const MARKS = { yes: ["✓", "satisfied"], no: ["✗", "not satisfied"], cannot_tell: ["?", "cannot tell"] };
const REASONS = {
  target_reached: "a picture is good enough", max_rounds: "all rounds are drawn",
  max_images: "as many pictures as allowed", deadline: "the time is over", unjudged: "not judged",
  refused: "refused", generator_failed: "drawing failed", max_cost: "the money is spent",
  cost_unknown: "a cost is unknown", interrupted: "interrupted",
};
let current = null;

function make(tag, options = {}, ...children) {
  const node = Object.assign(document.createElement(tag), options);
  node.append(...children);
  return node;
}

function say(text, error = false) {
  // The same words again would be read out again.
  if ($("status").textContent !== text) $("status").textContent = text;
  $("status").className = error ? "error" : "quiet";
}

async function call(path, options = {}) {
  const headers = { ...options.headers };
  const key = $("key").value || sessionStorage.getItem("lens-key");
  if (key) headers.authorization = "Bearer " + key;
  if (options.body) headers["content-type"] = "application/json";
  const answer = await fetch(path, { ...options, headers }).catch(() => {
    throw new Error("The server cannot be reached.");
  });
  if (answer.status === 401) {
    $("key-field").hidden = false;
    $("key").focus();
    throw Object.assign(new Error(key ? "The server does not know this API key." : "This server asks for an API key."), { final: true });
  }
  if (key) sessionStorage.setItem("lens-key", key);
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({}));
    const error = new Error(told.error?.message ?? `The server answered ${answer.status}.`);
    error.final = answer.status < 500 && answer.status !== 429;
    throw error;
  }
  return answer;
}

function freshKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return "page-" + Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
}

/* Server-sent events by fetch, because EventSource cannot send a key. */
async function* events(path, after, signal) {
  const headers = after ? { "last-event-id": String(after) } : {};
  const answer = await call(path, { headers, signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const fields = {};
      for (const line of block.split("\n")) {
        const at = line.indexOf(": ");
        if (at > 0) fields[line.slice(0, at)] = line.slice(at + 2);
      }
      if (fields.data) yield { kind: fields.event, number: Number(fields.id) || 0, data: JSON.parse(fields.data) };
    }
  }
}

class RunView {
  constructor(id) {
    this.id = id;
    this.known = 0;
    this.over = false;
    this.questions = {};
    this.cards = new Map();
    this.stopper = new AbortController();
    $("prompts").replaceChildren();
    $("candidates").replaceChildren();
    Labels.count();
  }

  async follow() {
    let failures = 0;
    while (!this.over) {
      try {
        for await (const event of events(`/v1/runs/${encodeURIComponent(this.id)}/events`, this.known, this.stopper.signal)) {
          failures = 0;
          if (event.number) this.known = event.number;
          this.show(event.kind, event.data);
        }
        if (!this.over) throw new Error("The connection ended.");
      } catch (error) {
        if (this.stopper.signal.aborted) return;
        if (error.final || ++failures > 6) throw error;
        say("Connection lost; trying again …");
        await new Promise((go) => setTimeout(go, 400 * 2 ** failures));
      }
    }
  }

  show(kind, data) {
    const act = {
      started: () => this.started(data.request),
      rewrite_done: () => this.rewritten(data.outcome),
      rubric_done: () => { for (const c of data.rubric.criteria) this.questions[c.name] = c.question; },
      step: () => this.step(data),
      image_ready: () => this.picture(data),
      judged: () => this.judged(data.index, data.verdict),
      revised: () => this.prompt(`New prompt for round ${data.round + 1}`, data.rewrite.prompt),
      stage_failed: () => this.failed(data),
      finished: () => this.finished(data),
      ended: () => this.ended(data),
    }[kind];
    if (act) act();
  }

  started(request) {
    if (!$("text").value) $("text").value = request.text;
    say("Rewriting the request …");
  }

  prompt(title, text) {
    $("prompts").append(make("li", {}, make("b", { textContent: title }), text));
  }

  rewritten(outcome) {
    if (outcome.reason !== undefined) {
      this.prompt(`Refused (${outcome.category})`, outcome.reason);
      return;
    }
    this.prompt(outcome.prompt === outcome.request ? "Drawn as asked" : "Rewritten", outcome.prompt);
    say("Drawing …");
  }

  card(index) {
    if (!this.cards.has(index)) {
      const card = make("figure", { className: "candidate" });
      const bar = make("progress", { max: 1, value: 0 });
      bar.setAttribute("aria-label", `Picture ${index + 1}`);
      const parts = {
        card, bar, frame: make("div", { className: "frame" }, bar),
        title: make("span", { className: "quiet", textContent: `Picture ${index + 1}` }),
        score: make("span", { className: "score judged-text" }),
        verdict: make("ul", { className: "verdict" }),
      };
      parts.head = make("div", { className: "head" }, parts.title, parts.score);
      parts.caption = make("figcaption", {}, parts.head, parts.verdict);
      card.append(parts.frame, parts.caption);
      const next = Math.min(...[...this.cards.keys()].filter((key) => key > index));
      // Cards that are there stay where they are, and so does the focus in them.
      $("candidates").insertBefore(parts.card, this.cards.get(next)?.card ?? null);
      this.cards.set(index, parts);
    }
    return this.cards.get(index);
  }

  step({ index, step, total, round }) {
    const { bar } = this.card(index);
    bar.max = total;
    bar.value = step;
    say(`Drawing round ${round + 1} …`);
  }

  picture({ index, image, round }) {
    const parts = this.card(index);
    const address = `data:${mediaType(image.data)};base64,${image.data}`;
    const picture = make("img", { src: address, alt: image.prompt });
    if ((image.settings.width ?? 1024) < 256) picture.className = "small";
    parts.frame.className = "frame there";
    parts.frame.replaceChildren(picture);
    parts.title.textContent = (image.seed === null ? `Picture ${index + 1}` : `Seed ${image.seed}`) + (round ? ` · round ${round + 1}` : "");
    const name = `lens-${image.seed ?? index}.${mediaType(image.data).split("/")[1]}`;
    parts.caption.append(make("a", { className: "save", href: address, download: name, textContent: "Download" }));
    say("Judging …");
  }

  judged(index, verdict) {
    const { score, verdict: list } = this.card(index);
    const asked = verdict.verdicts.filter((line) => line.answer !== "cannot_tell");
    const met = asked.filter((line) => line.answer === "yes");
    score.textContent = asked.length ? `${met.length} of ${asked.length}` : "not judged";
    list.replaceChildren(...verdict.verdicts.map((line) => {
      const [mark, meaning] = MARKS[line.answer];
      const sign = make("span", { className: `mark ${line.answer} judged`, textContent: mark });
      sign.setAttribute("role", "img");
      sign.setAttribute("aria-label", meaning);
      const question = this.questions[line.criterion] ?? line.criterion;
      const text = make("span", {}, make("span", { className: "question", textContent: question }));
      if (line.evidence) text.append(make("small", { className: "judged-text", textContent: line.evidence }));
      const item = make("li", {}, sign, text);
      Object.assign(item.dataset, { image: verdict.image_sha256, criterion: line.criterion });
      return item;
    }));
    for (const item of list.children) Labels.attach(item);
  }

  failed({ index, failure }) {
    const text = `${failure.message} ${failure.hint}`.trim();
    if (index === null || index === undefined) this.prompt(`Could not ${failure.stage}`, text);
    else {
      const { bar, verdict } = this.card(index);
      bar.remove();
      verdict.replaceChildren(make("li", { className: "note", textContent: text }));
    }
  }

  finished({ best, stop_reason, timings }) {
    this.over = true;
    say(`Done in ${timings.total.toFixed(1)} s: ${REASONS[stop_reason] ?? stop_reason}.`);
    // A run that was judged later has two ends.
    for (const { card, head } of this.cards.values()) {
      card.removeAttribute("id");
      card.classList.remove("best");
      head.querySelector(".badge")?.remove();
    }
    const parts = this.cards.get(best);
    if (!parts) return;
    parts.card.id = "best";
    parts.card.classList.add("best");
    parts.head.append(make("span", { className: "badge judged-text", textContent: "best" }));
    if (this.cards.size > 1) {
      $("status").append(" ", make("a", { href: "#best", className: "judged-text", textContent: "Go to the best picture" }));
    }
  }

  ended({ status, error }) {
    if (status === "running") return;
    this.over = true;
    // What was under way will not come.
    for (const { bar, card } of this.cards.values()) if (bar.isConnected) card.remove();
    const kept = $("candidates").querySelector("img") ? "Its pictures so far are kept." : "It has no pictures.";
    say(error ? error.message : `This run was ${status}. ${kept}`, Boolean(error));
  }
}

function mediaType(data) {
  if (data.startsWith("/9j/")) return "image/jpeg";
  if (data.startsWith("UklGR")) return "image/webp";
  return data.startsWith("R0lG") ? "image/gif" : "image/png";
}

function number(id) {
  const text = $(id).value.trim();
  return text === "" ? null : Number(text);
}

function body() {
  const [width, height] = $("size").value ? $("size").value.split("x").map(Number) : [null, null];
  return {
    request: {
      text: $("text").value, num_images: number("images") ?? 1, width, height, seed: number("seed"),
      num_inference_steps: number("steps"), guidance_scale: number("guidance"),
      negative_prompt: $("negative").value,
    },
    limits: { max_rounds: number("rounds") ?? 1 },
  };
}

async function watch(id) {
  current?.stopper.abort();
  const view = new RunView(id);
  current = view;
  $("stop").disabled = false;
  list();
  try {
    await view.follow();
  } finally {
    if (current === view) $("stop").disabled = true;
    list();
  }
}

async function draw(event) {
  event.preventDefault();
  if ($("draw").disabled) return;
  $("draw").disabled = true;
  say("Asking …");
  try {
    const options = { method: "POST", body: JSON.stringify(body()), headers: { "idempotency-key": freshKey() } };
    const run = await (await call("/v1/runs", options)).json();
    const watching = watch(run.id);
    $("results").focus();
    await watching;
  } catch (error) {
    say(error.message, true);
  } finally {
    $("draw").disabled = false;
  }
}

const wanted = new URLSearchParams(location.search);

async function begin() {
  try {
    const model = (await (await call("/v1/models")).json()).data[0];
    $("model").textContent = model.id;
    const { native_size: own, preferred_sizes: sizes } = model.capabilities;
    $("size").replaceChildren(make("option", { value: "", textContent: own ? `${own[0]} × ${own[1]} (usual)` : "model’s own" }),
      ...sizes.filter((size) => String(size) !== String(own)).map(([w, h]) => make("option", { value: `${w}x${h}`, textContent: `${w} × ${h}` })));
    await list();
  } catch (error) {
    say(error.message, true);
    return;
  }
  if (!$("key-field").hidden) {
    $("key-field").hidden = true;
    $("text").focus();
    if (!current) say("The key is right.");
  }
  const run = wanted.get("run");
  wanted.delete("run");
  if (run) watch(run).catch((error) => say(error.message, true));
}

$("form").addEventListener("submit", draw);
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
});
$("stop").addEventListener("click", () => {
  if (current) call(`/v1/runs/${encodeURIComponent(current.id)}/cancel`, { method: "POST" }).catch((error) => say(error.message, true));
});
$("key").addEventListener("change", begin);
$("key").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  begin();
});
// Addresses of reports work for an hour.
document.addEventListener("visibilitychange", () => { if (!document.hidden && $("model").textContent) list(); });
Labels.begin({ all: true });
if (wanted.has("request")) $("text").value = wanted.get("request");
begin();
