// Names that the theme leaves out, for screen readers.
const name_parts = () => {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
  document.querySelectorAll(".md-code__nav").forEach((bar, number) => {
    bar.setAttribute("aria-label", `Code block ${number + 1}`);
  });
};
name_parts();
new MutationObserver(name_parts).observe(document.body, { childList: true, subtree: true });
