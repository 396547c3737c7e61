"use strict";
(() => {
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];

  // Filters of the scorecard. Without script every row is shown.
  const form = document.querySelector(".filters");
  const rows = all(".claims tbody tr");
  const chips = all(".chip");
  const fields = form ? all("[data-filter]", form) : [];

  const filter = () => {
    const verdicts = chips.filter((chip) => chip.getAttribute("aria-pressed") === "true").map((chip) => chip.dataset.verdict);
    const asked = Object.fromEntries(fields.map((field) => [field.dataset.filter, field.value.trim().toLowerCase()]));
    let shown = 0;
    for (const row of rows) {
      const fits =
        (!verdicts.length || verdicts.includes(row.dataset.verdict)) &&
        (!asked.paper || row.dataset.paper.toLowerCase() === asked.paper) &&
        (!asked.text || asked.text.split(/\s+/).every((word) => row.textContent.toLowerCase().includes(word)));
      row.hidden = !fits;
      shown += fits;
    }
    for (const block of all(".claims")) block.hidden = !block.querySelector("tbody tr:not([hidden])");
    form.querySelector("output").textContent = shown === rows.length ? `all ${shown} shown` : `${shown} of ${rows.length} shown`;
  };

  if (form) {
    form.addEventListener("submit", (event) => event.preventDefault());
    for (const chip of chips) {
      chip.addEventListener("click", () => {
        chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
        filter();
      });
    }
    for (const field of fields) field.addEventListener("input", filter);
    filter(); // a reload may have kept what was typed
  }

  // A link into something folded or filtered away opens it first.
  const reveal = () => {
    let target = null;
    try {
      target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    } catch {
      return; // not an address of ours
    }
    if (!target) return;
    if (target.hidden) {
      for (const chip of chips) chip.setAttribute("aria-pressed", "false");
      for (const field of fields) field.value = "";
      filter();
    }
    let closed = false;
    for (let box = target.closest("details"); box; box = box.parentElement.closest("details")) {
      closed = closed || !box.open;
      box.open = true;
    }
    if (closed) target.scrollIntoView();
  };
  addEventListener("hashchange", reveal);
  reveal();

  // Where the reader is. On a narrow screen the contents start folded.
  const contents = document.querySelector(".contents details");
  if (contents && !matchMedia("(min-width: 64rem)").matches) contents.open = false;
  const places = new Map();
  for (const link of all(".contents a")) {
    const target = document.getElementById(decodeURIComponent(link.hash.slice(1)));
    if (target) places.set(target, link);
  }
  if ("IntersectionObserver" in window) {
    const seen = new Set();
    const watch = new IntersectionObserver(
      (changes) => {
        for (const change of changes) seen[change.isIntersecting ? "add" : "delete"](change.target);
        const current = [...places.keys()].filter((place) => seen.has(place)).pop();
        for (const [place, link] of places) {
          if (place === current) link.setAttribute("aria-current", "location");
          else link.removeAttribute("aria-current");
        }
      },
      { rootMargin: "0px 0px -75% 0px" },
    );
    for (const place of places.keys()) watch.observe(place);
  }

  // What scrolls can be reached by keyboard; what does not is no stop on the way.
  const settle = () => {
    const boxes = all(".scroll, pre").filter((box) => !box.closest("details:not([open])")); // do not lay out the folded
    const stops = boxes.map((box) => box.scrollWidth > box.clientWidth); // all reading before any writing
    boxes.forEach((box, place) => {
      box.tabIndex = stops[place] ? 0 : -1;
    });
  };
  let settling = 0;
  const settleSoon = () => {
    cancelAnimationFrame(settling);
    settling = requestAnimationFrame(settle);
  };
  addEventListener("resize", settleSoon);
  document.addEventListener("toggle", settleSoon, true);
  addEventListener("load", settleSoon);

  // Pictures at their own size.
  const dialog = document.querySelector("dialog");
  if (dialog && dialog.showModal) {
    for (const button of all(".zoom")) {
      button.addEventListener("click", () => {
        const picture = button.querySelector("img");
        const large = dialog.querySelector("img");
        large.src = picture.src;
        large.alt = picture.alt;
        dialog.showModal();
      });
    }
    dialog.addEventListener("click", () => dialog.close());
  }

  // Paper cannot be unfolded.
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = all("details:not([open]):not(.source, .long)");
    for (const box of folded) box.open = true;
  });
  addEventListener("afterprint", () => {
    for (const box of folded) box.open = false;
  });
})();
