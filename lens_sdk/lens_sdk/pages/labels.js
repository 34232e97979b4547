"use strict";

/* Users' answers to criteria: chosen here, stored in this browser, downloaded as JSON.
   A line that can be answered has data-image (the image's SHA-256), data-criterion (the criterion's
   name) and a child of class "question"; elements that show the judge's answer have the class
   "judged". */
const Labels = (() => {
  const CHOICES = { yes: ["Yes", "y"], no: ["No", "n"], cannot_tell: ["Can’t tell", "u"] };
  const STORE = `lens-labels:${location.pathname}`;
  let kept = {};
  let lasting = true;
  let bar = null;
  let groups = 0;

  function make(tag, options = {}, ...children) {
    const node = Object.assign(document.createElement(tag), options);
    node.append(...children);
    return node;
  }

  // A browser may forbid storage or have no room; labels then last only as long as the page.
  function read() {
    try {
      if (!lasting) return;
      kept = JSON.parse(localStorage.getItem(STORE)) ?? {};
    } catch { /* Keep the current labels. */ }
  }

  function write() {
    try {
      localStorage.setItem(STORE, JSON.stringify(kept));
      lasting = true;
    } catch {
      lasting = false;
    }
  }

  const keyOf = (line) => `${line.dataset.image} ${line.dataset.criterion}`;
  const lines = () => [...document.querySelectorAll("[data-criterion]")];

  function choose(line, label) {
    read();
    const { image, criterion } = line.dataset;
    if (label) kept[keyOf(line)] = { image, criterion, label };
    else delete kept[keyOf(line)];
    write();
    for (const other of lines()) if (keyOf(other) === keyOf(line)) show(other);
    count();
  }

  function show(line) {
    const label = kept[keyOf(line)]?.label;
    for (const input of line.querySelectorAll(".label input")) input.checked = input.value === label;
  }

  function attach(line) {
    const name = `label-${++groups}`;
    const options = Object.entries(CHOICES).map(([value, [text, key]]) => {
      const input = make("input", { type: "radio", name, value });
      // A second click clears the answer, which radio buttons do not support by themselves.
      input.addEventListener("click", () => choose(line, kept[keyOf(line)]?.label === value ? null : value));
      const title = `${text} (${key.toUpperCase()})`;
      return make("label", { title }, input, make("span", { textContent: text }));
    });
    const question = line.querySelector(".question").textContent;
    const legend = make("legend", { textContent: `Your answer: ${question}` });
    line.append(make("fieldset", { className: "label" }, legend, ...options));
    show(line);
  }

  function pressed(event) {
    if (!event.target.closest?.(".label") || event.ctrlKey || event.metaKey || event.altKey) return;
    const line = event.target.closest("[data-criterion]");
    if (event.key === "Backspace" || event.key === "Delete") {
      choose(line, null);
    } else {
      const found = Object.entries(CHOICES).find(([, [, key]]) => key === event.key.toLowerCase());
      if (!found) return;
      choose(line, found[0]);
      const all = lines();
      const next = all[all.indexOf(line) + 1] ?? line;
      (next.querySelector("input:checked") ?? next.querySelector("input")).focus();
    }
    event.preventDefault();
  }

  function count() {
    if (!bar) return;
    const keys = new Set(lines().map(keyOf));
    const here = [...keys].filter((key) => key in kept).length;
    const all = Object.keys(kept).length;
    const other = bar.all && all > here ? `, ${all} in all` : "";
    bar.counter.textContent = `${here} of ${keys.size} labelled${other}`;
    bar.save.disabled = bar.clear.disabled = !chosen().length;
    bar.node.hidden = !keys.size && !(bar.all && all);
  }

  function chosen() {
    if (bar.all) return Object.values(kept);
    const keys = new Set(lines().map(keyOf));
    return Object.entries(kept).filter(([key]) => keys.has(key)).map(([, label]) => label);
  }

  function download() {
    const text = JSON.stringify({ labels: chosen() }, null, 1);
    const href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    make("a", { href, download: "labels.json" }).click();
    setTimeout(() => URL.revokeObjectURL(href), 10000);
    bar.then.hidden = false;
  }

  function clear() {
    if (!confirm("Forget these labels?")) return;
    for (const { image, criterion } of chosen()) delete kept[`${image} ${criterion}`];
    write();
    lines().forEach(show);
    count();
    bar.end.focus();
  }

  function turn(on) {
    document.body.classList.toggle("labelling", on);
    document.body.classList.toggle("blind", on && bar.blind.checked);
    bar.idle.hidden = on;
    bar.tools.hidden = !on;
    (on ? document.querySelector(".label input") ?? bar.end : bar.begin).focus();
  }

  /* Fills the element #labels; `all` also downloads labels of images that are not shown now. */
  function begin({ all = false } = {}) {
    const node = document.getElementById("labels");
    const counter = make("span", { className: "count" });
    counter.setAttribute("role", "status");
    const plain = (textContent, onclick) => make("button", { type: "button", className: "plain", textContent, onclick });
    const blind = make("input", { type: "checkbox", checked: true });
    const save = make("button", { type: "button", textContent: "Download labels", onclick: download });
    const [cleared, end] = [plain("Clear", clear), plain("Close", () => turn(false))];
    const start = plain("Check the judge", () => turn(true));
    const why = "Say what you see, and learn how far its answers can be trusted.";
    const idle = make("div", { className: "idle" }, start, make("span", { textContent: why }));
    const keys = make("span", { className: "keys" }, make("kbd", { textContent: "Y" }), make("kbd", { textContent: "N" }),
      make("kbd", { textContent: "U" }), " answer and go on");
    const then = make("p", { className: "then", hidden: true }, "Then: ", make("code", { textContent: node.dataset.then }));
    const tools = make("div", { className: "tools", hidden: true }, counter, keys,
      make("label", {}, blind, " Hide the judge’s answers"), save, cleared, end, then);
    bar = { node, counter, blind, save, clear: cleared, end, begin: start, idle, tools, then, all };
    blind.addEventListener("change", () => document.body.classList.toggle("blind", blind.checked));
    document.addEventListener("keydown", pressed);
    addEventListener("storage", () => { read(); lines().forEach(show); count(); });
    node.replaceChildren(idle, tools);
    read();
    count();
  }

  return { attach, begin, count };
})();
