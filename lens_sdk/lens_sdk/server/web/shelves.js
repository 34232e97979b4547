/* The lists ("shelves") at the bottom of the page: past runs and prompt studies. */

const day = (seconds) => new Date(seconds * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });

/* Fill a shelf with a control for each row. Existing rows keep their elements, so that a
   refresh neither moves the focus nor interrupts a click. */
function fill(shelf, rows, control) {
  const items = new Map([...shelf.children].map((item) => [item.dataset.id, item]));
  const wanted = rows.map((row) => {
    const made = control(row);
    const item = items.get(row.id) ?? make("li", {}, made);
    item.dataset.id = row.id;
    refresh(item.firstElementChild, made);
    return item;
  });
  for (const item of items.values()) if (!wanted.includes(item)) item.remove();
  wanted.forEach((item, place) => {
    if (shelf.children[place] !== item) shelf.insertBefore(item, shelf.children[place] ?? null);
  });
}

function refresh(kept, made) {
  if (kept === made) return;
  if (made.href) kept.href = made.href;
  kept.onclick = made.onclick;
  if (!kept.isEqualNode(made)) kept.replaceChildren(...made.childNodes);
}

const MOST = 200;
const shown = { past: 12, "study-list": 12 };

/* Request one row more than is shown, to find out whether there are more. */
async function rows(path, shelf) {
  const asked = Math.min(shown[shelf] + 1, MOST);
  const { data } = await (await call(`${path}?limit=${asked}`)).json();
  document.querySelector(`[data-shelf=${shelf}]`).hidden = data.length <= shown[shelf];
  return data.slice(0, shown[shelf]);
}

async function showMore({ target }) {
  const shelf = target.dataset.shelf;
  const there = $(shelf).children.length;
  shown[shelf] *= 4;
  await refreshShelves();
  $(shelf).children[there]?.firstElementChild.focus();
}

async function listPast() {
  const data = await rows("/v1/runs", "past");
  $("no-past").hidden = data.length > 0;
  fill($("past"), data, (run) => {
    const again = () => { $("text").value = run.request.text; show(run.id); $("results").focus(); };
    return make("button", { type: "button", onclick: again },
      make("span", { className: "what", textContent: run.request.text }),
      make("span", { className: `state ${run.status}`, textContent: run.status }),
      make("span", { className: "facts", textContent: day(run.created_at) }));
  });
}

const points = (share, sign = false) => `${sign && share >= 0 ? "+" : ""}${(100 * share).toFixed(1)}`.replace("-", "−");

function outcome({ status, improved, claim }) {
  if (status !== "finished") return [status, "running"];
  if (!improved) return ["no better prompt", ""];
  return claim ? [`${points(claim.gain, true)} points`, claim.interval[0] > 0 ? "finished" : ""] : ["improved", "finished"];
}

function ago(seconds) {
  const minutes = Math.max(0, Math.round((Date.now() / 1000 - seconds) / 60));
  if (minutes < 60) return minutes ? `${minutes} min ago` : "just now";
  return minutes < 2880 ? `${Math.round(minutes / 60)} h ago` : `${Math.round(minutes / 1440)} days ago`;
}

function studyFacts({ claim, cost, created_at, updated_at, status }) {
  const scores = claim && `${points(claim.seed_score)} % → ${points(claim.best_score)} % of criteria met`;
  const interval = claim && `gain ${claim.interval.map((end) => points(end, true)).join(" to ")} (${Math.round(100 * claim.confidence)} %)`;
  const spent = cost.usd || !cost.unpriced ? `$${cost.usd.toFixed(2)}${cost.unpriced ? " and more" : ""}` : "cost unknown";
  const heard = status !== "finished" && `last entry ${ago(updated_at)}`;
  return [[scores, interval], [heard], [`${cost.images.toLocaleString()} images`, spent, day(created_at)]]
    .map((line) => line.filter(Boolean).join(" · ")).filter(Boolean);
}

async function listStudies() {
  const data = await rows("/v1/studies", "study-list");
  $("no-studies").hidden = data.length > 0;
  fill($("study-list"), data, (study) => {
    const [words, state] = outcome(study);
    return make("a", { href: study.report_url },
      make("span", { className: "what", textContent: `${study.id}: “${study.prompt}” for ${study.generators.join(" and ")}` }),
      make("span", { className: `state ${state}`, textContent: words }),
      ...studyFacts(study).map((textContent) => make("span", { className: "facts", textContent })));
  });
}

const list = () => Promise.all([listPast(), listStudies()]);

/* If the server is briefly unavailable, keep what the status line says about a run. */
const refreshShelves = () => list().catch((error) => { if (error.final) say(error.message, true); });
