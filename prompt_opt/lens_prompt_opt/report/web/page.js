"use strict";

// Without scripts everything is shown; with them pairs can be filtered.
const filters = document.querySelector(".filters");
if (filters) {
  filters.hidden = false;
  filters.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const wanted = button.dataset.show;
    for (const other of filters.querySelectorAll("button")) {
      other.setAttribute("aria-pressed", String(other === button));
    }
    for (const pair of document.querySelectorAll(".pair")) {
      pair.hidden = wanted !== "all" && pair.dataset.change !== wanted;
    }
  });
}

// A link into something folded away unfolds it.
function reveal() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (!target) return;
  const folded = target.closest("details");
  if (folded) folded.open = true;
  if (target.tabIndex === -1) target.focus({ preventScroll: true });
  target.scrollIntoView({ block: "center" });
}
addEventListener("hashchange", () => {
  if (location.hash.startsWith("#c-")) reveal();
});
if (location.hash.startsWith("#c-")) reveal();

// The link of the section being read is marked.
const links = new Map();
for (const link of document.querySelectorAll("nav a")) links.set(link.hash.slice(1), link);
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    for (const link of links.values()) link.removeAttribute("aria-current");
    const link = links.get(entry.target.id);
    link.setAttribute("aria-current", "true");
    link.parentElement.scrollTo({ left: link.offsetLeft - 40 });
  }
}, { rootMargin: "-15% 0px -75% 0px" });
for (const name of links.keys()) watcher.observe(document.getElementById(name));
