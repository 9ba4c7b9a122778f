"use strict";
// Folded parts are open on paper, also where the style sheet's way is not known.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const part of opened) part.open = true;
});
addEventListener("afterprint", () => {
  for (const part of opened) part.open = false;
});

// Lists that are searched, and shown a page at a time. Without a script all of a list is shown.
for (const list of document.querySelectorAll("[data-page]")) {
  const items = [...list.querySelector(".items").children];
  const controls = list.querySelector(".controls");
  const [previous, next] = controls.querySelectorAll("button");
  const search = controls.querySelector("input");
  const position = controls.querySelector("output");
  const size = Number(list.dataset.page);
  const plain = (text) => text.normalize("NFC").toLowerCase();
  let texts = null; // read when something is searched for the first time
  let found = items;
  let page = 0;

  const show = () => {
    const first = page * size;
    const shown = new Set(found.slice(first, first + size));
    for (const item of items) item.hidden = !shown.has(item);
    const words = { first: first + 1, last: first + shown.size, total: found.length };
    position.textContent = found.length
      ? list.dataset.position.replace(/\{(\w+)\}/g, (_, word) => words[word].toLocaleString("en"))
      : list.dataset.none;
    previous.disabled = page === 0;
    next.disabled = first + size >= found.length;
  };
  const turn = (by) => {
    page += by;
    show();
    list.scrollIntoView({ block: "start" });
  };
  previous.addEventListener("click", () => turn(-1));
  next.addEventListener("click", () => turn(1));
  search.addEventListener("input", () => {
    texts ??= items.map((item) => plain(item.textContent));
    const wanted = plain(search.value).trim().split(/\s+/);
    found = items.filter((_, number) => wanted.every((word) => texts[number].includes(word)));
    page = 0;
    show();
  });
  controls.hidden = false;
  show();
}
