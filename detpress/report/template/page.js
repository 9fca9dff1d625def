"use strict";
const one = (selector) => document.querySelector(selector);
const all = (selector, root = document) => Array.from(root.querySelectorAll(selector));

// The table sorts by a column, numbers by their value, rows without one last.
const body = one("#results tbody");
const headers = all("#results thead th");
headers.forEach((header, column) => {
  header.querySelector("button").addEventListener("click", () => {
    const rising = header.getAttribute("aria-sort") !== "ascending";
    headers.forEach((other) => other.setAttribute("aria-sort", "none"));
    header.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const sorted = all("tr", body).sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return rising ? order : -order;
    });
    body.append(...sorted);
  });
});

// Rows that hold all the words, and what the boxes ask for.
function filter() {
  const words = one("#filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  all("tr", body).forEach((row) => {
    const text = row.textContent.toLowerCase();
    const fits = words.every((word) => text.includes(word))
      && (!one("#only-front").checked || row.dataset.front === "1")
      && (!one("#only-good").checked || row.dataset.good === "1");
    row.hidden = !fits;
    shown += fits;
  });
  one("#count").textContent = `${shown} of ${body.rows.length} rows`;
}
one(".filters").addEventListener("input", filter);
one(".filters").addEventListener("submit", (event) => event.preventDefault());
filter();

// One class's curves at a time.
const chooser = one("#curve-class");
function choose() {
  all(".of-class").forEach((figure) => { figure.hidden = figure.dataset.class !== chooser.value; });
}
if (chooser) { chooser.addEventListener("change", choose); choose(); }

// What a point, a curve or a box is, for the pointer and for the keyboard.
const tip = one("#tip");
function show(element, x, y) {
  tip.textContent = element.dataset.tip;
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - width - 4))}px`;
  tip.style.top = `${y + 16 + height > innerHeight ? y - height - 12 : y + 16}px`;
}
document.addEventListener("pointermove", (event) => {
  const element = event.target.closest("[data-tip]");
  if (element) show(element, event.clientX, event.clientY);
  else if (!document.activeElement.matches("[data-tip]")) tip.hidden = true;
});
document.addEventListener("focusin", (event) => {
  tip.hidden = !event.target.matches("[data-tip]");
  if (tip.hidden) return;
  const box = event.target.getBoundingClientRect();
  show(event.target, box.right, box.top);
});
document.addEventListener("scroll", () => { tip.hidden = true; }, { capture: true, passive: true });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });

// A page from a file may not be allowed to write to the clipboard; the text is then selected.
all(".copy").forEach((button) => button.addEventListener("click", async () => {
  const text = button.nextElementSibling;
  try {
    await navigator.clipboard.writeText(text.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(text);
    button.textContent = "Selected";
  }
}));
