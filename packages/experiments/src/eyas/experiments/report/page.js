"use strict";
// The page as a whole: its data, which rows are drawn, the legend, the theme; chart.js and table.js stand before it.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const FEW = ["#2a78d6", "#e34948", "#1a9e6c", "#c77700", "#8a4fd0", "#0d9aa8", "#d6408f", "#7c8a00", "#8d6748", "#6a7480"];
const rows = data.rows.map((label, index) => ({ label, index, shown: true, listed: true, colour: colour(index), button: null }));
const charts = [];
let hovered = [];
let waiting = false;

function colour(index) {
  if (data.rows.length <= FEW.length) return FEW[index];
  return `hsl(${255 - (245 * index) / (data.rows.length - 1)} 62% 52%)`; // in the order of the table, blue to red
}

function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    for (const chart of charts) if (chart.near) chart.draw();
  });
}

const sight = new IntersectionObserver((seen) => {
  for (const { target, isIntersecting } of seen) charts.find((chart) => chart.canvas === target).near = isIntersecting;
  redraw();
}, { rootMargin: "400px" });

function floats(text) {
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return new Float32Array(bytes.buffer); // little-endian, as every machine that a browser runs on
}

function hover(indices) {
  if (String(indices) === String(hovered)) return;
  hovered = indices;
  redraw();
}

function show(row, shown) {
  row.shown = shown;
  row.button.setAttribute("aria-pressed", shown);
}

function makeLegend(place) {
  const action = (text, choose) => {
    const button = make("button", { type: "button", className: "action", textContent: text });
    button.addEventListener("click", () => {
      for (const row of rows) if (row.listed) show(row, choose);
      redraw();
    });
    return button;
  };
  place.append(action("all", true), action("none", false));
  const drawn = new Set(data.curves.flatMap(({ lines }) => lines.map(([run]) => data.runs[run][0])));
  for (const { lines } of data.lengths) for (const [row] of lines) drawn.add(row);
  for (const row of rows) {
    const swatch = make("i");
    swatch.style.background = row.colour;
    row.button = make("button", { type: "button", title: "click: show or hide; double-click: this one alone" }, swatch, row.label);
    row.button.hidden = !drawn.has(row.index);
    row.button.addEventListener("click", () => (show(row, !row.shown), redraw()));
    row.button.addEventListener("dblclick", () => {
      for (const other of rows) show(other, other === row);
      redraw();
    });
    for (const [name, to] of [["pointerenter", [row.index]], ["pointerleave", []], ["focus", [row.index]], ["blur", []]]) {
      row.button.addEventListener(name, () => hover(to));
    }
    show(row, true);
    place.append(row.button);
  }
}

function makeCharts() {
  for (const { name, lines } of data.curves) {
    const load = () => lines.map(([run, xs, ys]) => {
      const [row, label] = data.runs[run];
      return { row, name: `${rows[row].label} · ${label}`, xs: floats(xs), ys: floats(ys) };
    });
    charts.push(new Chart(byId("curves"), name, "step", lines.length, load, false));
  }
  for (const { name, lines } of data.lengths) {
    const load = () => lines.map(([row, points]) => {
      const [xs, ys, errors] = [0, 1, 2].map((part) => points.map((point) => point[part]));
      return { row, name: rows[row].label, xs, ys, errors };
    });
    charts.push(new Chart(byId("lengths"), `${name} by length`, "length", lines.length, load, true));
  }
}

makeCharts();
if (byId("legend")) makeLegend(byId("legend"));
makeTable(byId("table"));
byId("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  redraw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
addEventListener("resize", redraw);
addEventListener("beforeprint", () => { // paper is light, and shows what nobody scrolled to
  byId("theme").dataset.before = document.documentElement.dataset.theme || "";
  document.documentElement.dataset.theme = "light";
  for (const chart of charts) chart.draw();
});
addEventListener("afterprint", () => {
  document.documentElement.dataset.theme = byId("theme").dataset.before;
  redraw();
});
redraw();
