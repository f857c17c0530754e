"use strict";
// The table: sort, filter, choose columns.

function sortBy(head, column) {
  const ascending = head.getAttribute("aria-sort") !== "ascending";
  for (const other of head.parentNode.children) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const body = byId("table").tBodies[0];
  const keyed = [...body.rows].map((line) => {
    const text = line.cells[column].dataset.value ?? "";
    return { line, text, number: text === "" ? NaN : Number(text) };
  });
  keyed.sort((a, b) => {
    if (!a.text || !b.text) return !a.text - !b.text; // what is missing stays last
    const both = !Number.isNaN(a.number) && !Number.isNaN(b.number);
    const order = both ? a.number - b.number : a.text.localeCompare(b.text, undefined, { numeric: true });
    return ascending ? order : -order;
  });
  body.append(...keyed.map(({ line }) => line));
}

// The rows of the plots that a line of the table is about: several where it joins them, tasks say.
function drawnRows(line) {
  return line.dataset.rows.split(" ").map((index) => rows[+index]);
}

function makeTable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.firstChild.addEventListener("click", () => sortBy(head, column)));
  for (const box of document.querySelectorAll("[data-column]")) {
    box.addEventListener("change", () => {
      for (const line of table.rows) line.cells[+box.dataset.column].hidden = !box.checked;
    });
  }
  byId("filter").addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const line of table.tBodies[0].rows) {
      const about = drawnRows(line);
      for (const row of about) {
        const text = `${line.textContent} ${row.label}`.toLowerCase();
        row.listed = words.every((word) => text.includes(word));
        if (row.button) show(row, row.listed);
      }
      line.hidden = !about.some((row) => row.listed);
    }
    redraw();
  });
  for (const line of table.tBodies[0].rows) {
    line.addEventListener("pointerenter", () => hover(drawnRows(line).map((row) => row.index)));
    line.addEventListener("pointerleave", () => hover([]));
  }
}
