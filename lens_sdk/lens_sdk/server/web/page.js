const $ = (id) => document.getElementById(id);
const MARKS = { yes: ["✓", "satisfied"], no: ["✗", "not satisfied"], cannot_tell: ["?", "cannot tell"] };
const REASONS = {
  target_reached: "an image is good enough", max_rounds: "all rounds are done",
  max_images: "the image limit is reached", deadline: "time is up", unjudged: "not judged",
  refused: "refused", generator_failed: "generation failed", max_cost: "the cost limit is reached",
  cost_unknown: "a cost is unknown", interrupted: "interrupted",
};
const STAGES = {
  rewrite: "The request could not be rewritten", rubric: "No criteria could be written",
  fidelity: "The prompt could not be checked", generate: "Generation failed",
  judge: "An image could not be judged", revise: "The prompt could not be revised",
};
let current = null;

function make(tag, options = {}, ...children) {
  const node = Object.assign(document.createElement(tag), options);
  node.append(...children);
  return node;
}

function say(text, error = false) {
  // Setting the same text again would make screen readers repeat it.
  if ($("status").textContent !== text) $("status").textContent = text;
  $("status").className = error ? "error" : "quiet";
}

// Unlike `disabled`, aria-disabled lets an inactive button keep the focus.
const able = (id) => $(id).getAttribute("aria-disabled") !== "true";
const enable = (id, on) => $(id).setAttribute("aria-disabled", String(!on));

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
    let failures = 0, doing = "";
    while (!this.over) {
      await untilSeen();
      const seen = whileSeen();
      const either = AbortSignal.any([this.stopper.signal, seen.signal]);
      try {
        for await (const event of events(`/v1/runs/${encodeURIComponent(this.id)}/events`, this.known, either)) {
          if (event.kind === "open") {
            if (failures) say(doing);
            continue;
          }
          failures = 0;
          if (event.number) this.known = event.number;
          this.show(event.kind, event.data);
        }
        if (!this.over) throw new Error("The connection ended.");
      } catch (error) {
        if (this.stopper.signal.aborted) return;
        if (seen.signal.aborted) continue;
        if (!failures) doing = $("status").textContent;
        if (error.final || ++failures > 6) throw error;
        say("Connection lost; trying again …");
        await new Promise((go) => setTimeout(go, 400 * 2 ** failures));
      } finally {
        seen.abort();
      }
    }
  }

  show(kind, data) {
    const act = {
      started: () => this.started(data.request),
      rewrite_done: () => this.rewritten(data.outcome),
      rubric_done: () => this.asking(data.rubric),
      step: () => this.step(data),
      image_ready: () => this.picture(data),
      judged: () => this.judged(data.index, data.verdict),
      revised: () => this.revised(data),
      stage_failed: () => this.failed(data),
      finished: () => this.finished(data),
      ended: () => this.ended(data),
    }[kind];
    if (act) act();
  }

  started(request) {
    if (!$("text").value) $("text").value = request.text;
    if ($("text").value !== request.text) this.prompt("Asked for", request.text);
    say("Working on it …");
  }

  prompt(title, text) {
    $("prompts").append(make("li", {}, make("b", { textContent: title }), text));
  }

  rewritten(outcome) {
    if (outcome.reason !== undefined) {
      this.prompt(`Refused (${outcome.category})`, outcome.reason);
      return;
    }
    this.prompt(outcome.prompt === outcome.request ? "Used as asked" : "Rewritten", outcome.prompt);
    say("Generating …");
  }

  // The criteria are written while the first images are generated.
  asking(rubric) {
    for (const { name, question } of rubric.criteria) this.questions[name] = question;
    if (!this.cards.size) say("Generating …");
  }

  revised({ round, rewrite }) {
    this.prompt(`New prompt for round ${round + 1}`, rewrite.prompt);
    say(`Generating round ${round + 1} …`);
  }

  card(index) {
    if (!this.cards.has(index)) {
      const card = make("figure", { className: "candidate" });
      const bar = make("progress", { max: 1, value: 0 });
      bar.setAttribute("aria-label", `Image ${index + 1}`);
      const parts = {
        card, bar, frame: make("div", { className: "frame" }, bar),
        title: make("span", { className: "quiet", textContent: `Image ${index + 1}` }),
        score: make("span", { className: "score judged-text" }),
        verdict: make("ul", { className: "verdict" }),
      };
      parts.head = make("div", { className: "head" }, parts.title, parts.score);
      parts.caption = make("figcaption", {}, parts.head, parts.verdict);
      card.append(parts.frame, parts.caption);
      const next = Math.min(...[...this.cards.keys()].filter((key) => key > index));
      // Existing cards are not moved, so they keep the focus.
      $("candidates").insertBefore(parts.card, this.cards.get(next)?.card ?? null);
      this.cards.set(index, parts);
    }
    return this.cards.get(index);
  }

  step({ index, step, total, round }) {
    const { bar } = this.card(index);
    // An image's last step may be reported after the image.
    if (!bar.isConnected) return;
    bar.max = total;
    bar.value = step;
    say(`Generating round ${round + 1} …`);
  }

  picture({ index, image, round }) {
    const parts = this.card(index);
    const address = `data:${mediaType(image.data)};base64,${image.data}`;
    const picture = make("img", { src: address, alt: image.prompt });
    if ((image.settings.width ?? 1024) < 256) picture.className = "small";
    parts.frame.className = "frame there";
    parts.frame.replaceChildren(picture);
    parts.title.textContent = (image.seed === null ? `Image ${index + 1}` : `Seed ${image.seed}`) + (round ? ` · round ${round + 1}` : "");
    const again = round ? `-round-${round + 1}` : "";
    const name = `lens-${image.seed ?? index}${again}.${mediaType(image.data).split("/")[1]}`;
    const save = make("a", { className: "save", href: address, download: name, textContent: "Download" });
    save.setAttribute("aria-label", `Download ${parts.title.textContent}`);
    parts.caption.append(save);
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
    Labels.count();
  }

  failed({ index, failure }) {
    const text = `${failure.message} ${failure.hint}`.trim();
    if (index === null || index === undefined) this.prompt(STAGES[failure.stage] ?? failure.stage, text);
    else {
      const { bar, score, verdict } = this.card(index);
      if (bar.isConnected) bar.replaceWith(make("span", { className: "quiet", textContent: "not drawn" }));
      else score.textContent = "not judged";
      verdict.replaceChildren(make("li", { className: "note", textContent: text }));
    }
  }

  finished({ best, stop_reason, timings }) {
    this.over = true;
    say(`Done in ${timings.total.toFixed(1)} s: ${REASONS[stop_reason] ?? stop_reason}.`);
    // A run that was judged later has two end events.
    for (const { card, head } of this.cards.values()) {
      card.removeAttribute("id");
      card.classList.remove("best");
      head.querySelector(".badge")?.remove();
    }
    const parts = this.cards.get(best);
    // Without a verdict, the best image is just the first one.
    if (this.cards.size < 2 || !parts?.verdict.querySelector(".mark")) return;
    parts.card.id = "best";
    parts.card.classList.add("best");
    parts.head.append(make("span", { className: "badge judged-text", textContent: "best" }));
    $("status").append(" ", make("a", { href: "#best", className: "judged-text", textContent: "Go to the best image" }));
  }

  ended({ status, error }) {
    if (status === "running") return;
    this.over = true;
    // Images still in progress will not arrive.
    for (const { bar, card } of this.cards.values()) if (bar.isConnected) card.remove();
    const kept = $("candidates").querySelector("img") ? "Its images so far are kept." : "It has no images.";
    say(error ? error.message : `This run was ${status}. ${kept}`, Boolean(error));
    $("status").append(" ", make("button", { type: "button", className: "plain", textContent: "Go on", onclick: () => goOn(this.id) }));
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

const runInAddress = () => new URLSearchParams(location.search).get("run");

async function watch(id) {
  current?.stopper.abort();
  if (runInAddress() !== id) history.pushState(null, "", `?run=${encodeURIComponent(id)}`);
  const view = new RunView(id);
  current = view;
  enable("stop", true);
  refreshShelves();
  try {
    await view.follow();
  } catch (error) {
    if (current === view) current = null;
    throw error;
  } finally {
    if (!current || current === view) enable("stop", false);
    refreshShelves();
  }
}

const show = (id) => watch(id).catch((error) => say(error.message, true));

async function goOn(id) {
  $("results").focus();
  try {
    await call(`/v1/runs/${encodeURIComponent(id)}/resume`, { method: "POST" });
    await watch(id);
  } catch (error) {
    say(error.message, true);
  }
}

function showAddress() {
  const run = runInAddress();
  if (run && run !== current?.id) show(run);
  if (run || !current) return;
  current.stopper.abort();
  new RunView("");
  current = null;
  enable("stop", false);
  say("");
}

async function draw(event) {
  event.preventDefault();
  if (!able("draw")) return;
  enable("draw", false);
  say("Starting …");
  try {
    const options = { method: "POST", body: JSON.stringify(body()), headers: { "idempotency-key": freshKey() } };
    const run = await (await call("/v1/runs", options)).json();
    const watching = watch(run.id);
    $("results").focus();
    await watching;
  } catch (error) {
    say(error.message, true);
  } finally {
    enable("draw", true);
  }
}

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
    if (!current || $("status").className === "error") say("The key is correct.");
  }
  showAddress();
}

$("form").addEventListener("submit", draw);
// Unfold collapsed fields, as the browser cannot show their validation errors.
$("form").addEventListener("invalid", (event) => event.target.closest("details")?.setAttribute("open", ""), true);
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
});
$("stop").addEventListener("click", () => {
  if (!current || !able("stop")) return;
  enable("stop", false);
  call(`/v1/runs/${encodeURIComponent(current.id)}/cancel`, { method: "POST" }).catch((error) => {
    say(error.message, true);
    if (current && !current.over) enable("stop", true);
  });
});
$("key").addEventListener("change", begin);
$("key").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  begin();
});
addEventListener("popstate", showAddress);
// Refresh regularly: studies progress, and their report URLs expire after an hour.
const lookAgain = () => { if (!document.hidden && $("model").textContent) refreshShelves(); };
document.addEventListener("visibilitychange", lookAgain);
setInterval(lookAgain, 60_000);
for (const button of document.querySelectorAll(".more")) button.addEventListener("click", showMore);
Labels.begin({ all: true });
$("text").value = new URLSearchParams(location.search).get("request") ?? $("text").value;
begin();
