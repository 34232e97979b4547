/* Calls to the server. */

// A browser may forbid storage; the key then lasts only as long as the page.
function stored(use) {
  try { return use(); } catch { return null; }
}
let knownKey = stored(() => sessionStorage.getItem("lens-key"));

function askForKey(why) {
  $("key-field").hidden = false;
  $("key").focus();
  return Object.assign(new Error(why), { final: true });
}

async function call(path, options = {}) {
  const headers = { ...options.headers };
  const key = $("key").value || knownKey;
  const [odd] = key?.match(/[^\x20-\x7e]/u) ?? [];
  if (odd) throw askForKey(`API keys cannot contain “${odd}”.`);
  if (key) headers.authorization = "Bearer " + key;
  if (options.body) headers["content-type"] = "application/json";
  const answer = await fetch(path, { ...options, headers }).catch(() => {
    throw new Error("The server cannot be reached.");
  });
  if (answer.status === 401) {
    throw askForKey(key ? "The server does not know this API key." : "This server asks for an API key.");
  }
  if (key) {
    knownKey = key;
    stored(() => sessionStorage.setItem("lens-key", key));
  }
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

// The server sends a keep-alive every 15 seconds, since a connection may die silently.
const SILENCE = 45_000;

function within(milliseconds, promise) {
  let timer;
  const late = new Promise((_, fail) => {
    timer = setTimeout(() => fail(new Error("The connection is silent.")), milliseconds);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/* A browser allows six connections to a server across all tabs, so a hidden tab releases
   its own. */
async function untilSeen() {
  while (document.hidden) {
    await new Promise((go) => document.addEventListener("visibilitychange", go, { once: true }));
  }
}

function whileSeen() {
  const hiding = new AbortController();
  const look = () => { if (document.hidden) hiding.abort(); };
  document.addEventListener("visibilitychange", look, { signal: hiding.signal });
  return hiding;
}

/* Server-sent events through fetch, because EventSource cannot send a key. */
async function* events(path, after, signal) {
  const headers = after ? { "last-event-id": String(after) } : {};
  const answer = await call(path, { headers, signal });
  yield { kind: "open" };
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await within(SILENCE, reader.read());
      if (done) return;
      text += value;
      const blocks = text.split("\n\n");
      text = blocks.pop();
      for (const block of blocks) if (block.includes("\ndata: ")) yield parsed(block);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parsed(block) {
  const fields = {};
  for (const line of block.split("\n")) {
    const at = line.indexOf(": ");
    if (at > 0) fields[line.slice(0, at)] = line.slice(at + 2);
  }
  return { kind: fields.event, number: Number(fields.id) || 0, data: JSON.parse(fields.data) };
}
