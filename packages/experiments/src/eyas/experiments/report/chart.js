"use strict";
// One plot on a canvas: axes, lines, zoom, keys.

// One plot, of lines { row, name, xs, ys, errors } that `load` makes once it comes into sight; a view is
// [left, right, bottom, top], null for all there is.
class Chart {
  constructor(place, title, xName, count, load, dots) {
    Object.assign(this, { title, xName, load, dots, lines: null, view: null, logs: false, drag: null, near: false });
    this.canvas = make("canvas", { tabIndex: 0 });
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", `${title} over ${xName}, ${count} lines; the table has the last values`);
    const button = (text, action) => {
      const made = make("button", { type: "button", className: "action", textContent: text });
      made.addEventListener("click", () => (action(made), redraw()));
      return made;
    };
    this.logButton = button("log", (made) => {
      this.logs = !this.logs;
      this.view = null;
      made.setAttribute("aria-pressed", this.logs);
    });
    this.logButton.setAttribute("aria-pressed", "false");
    this.logButton.title = "logarithmic values";
    this.resetButton = button("all", () => (this.view = null));
    this.resetButton.title = "undo the zoom";
    const caption = make("figcaption", {}, make("span", { textContent: title }), this.logButton, this.resetButton);
    place.append(make("figure", {}, caption, this.canvas));
    this.listen();
    sight.observe(this.canvas);
  }

  scale(value) { return this.logs ? Math.log10(value) : value; }
  across(value) { return this.dots ? Math.log2(value) : value; }
  visible() { return this.lines.filter((line) => rows[line.row].shown); }

  extent() {
    const range = [Infinity, -Infinity, Infinity, -Infinity];
    for (const { xs, ys, errors } of this.visible()) {
      for (let i = 0; i < xs.length; i++) {
        const x = this.across(xs[i]);
        const ends = errors ? [this.scale(ys[i] - errors[i]), this.scale(ys[i] + errors[i])] : [this.scale(ys[i])];
        if (x < range[0]) range[0] = x;
        if (x > range[1]) range[1] = x;
        for (const y of ends) {
          if (Number.isFinite(y) && y < range[2]) range[2] = y;
          if (Number.isFinite(y) && y > range[3]) range[3] = y;
        }
      }
    }
    if (!(range[0] <= range[1])) return [0, 1, 0, 1];
    if (!(range[2] <= range[3])) [range[2], range[3]] = [0, 1];
    if (range[0] === range[1]) [range[0], range[1]] = [range[0] - 0.5, range[1] + 0.5];
    if (this.dots) [range[0], range[1]] = [range[0] - 0.1, range[1] + 0.1];
    const margin = (range[3] - range[2]) * 0.05 || Math.abs(range[2]) * 0.05 || 0.5;
    return [range[0], range[1], range[2] - margin, range[3] + margin];
  }

  draw() {
    this.lines ??= this.load();
    const ratio = window.devicePixelRatio || 1;
    const width = this.canvas.clientWidth, height = this.canvas.clientHeight;
    if (!width) return;
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
    }
    const style = getComputedStyle(this.canvas);
    const pen = this.canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const [left, right, bottom, top] = this.view || this.extent();
    const box = { x: 56, y: 8, w: width - 78, h: height - 46 };
    const atX = (x) => box.x + ((this.across(x) - left) / (right - left)) * box.w;
    const atY = (y) => box.y + ((top - this.scale(y)) / (top - bottom)) * box.h;
    Object.assign(this, { box, range: [left, right, bottom, top], atX, atY });
    this.axes(pen, style);
    pen.save();
    pen.beginPath();
    pen.rect(box.x, box.y, box.w, box.h);
    pen.clip();
    const lines = this.visible().sort((a, b) => hovered.includes(a.row) - hovered.includes(b.row));
    const many = lines.length > 24;
    for (const line of lines) {
      pen.globalAlpha = hovered.length === 0 ? (many ? 0.5 : 0.9) : hovered.includes(line.row) ? 1 : 0.12;
      pen.lineWidth = hovered.includes(line.row) ? 2 : many ? 1 : 1.5;
      pen.strokeStyle = pen.fillStyle = rows[line.row].colour;
      this.line(pen, line);
    }
    pen.restore();
    if (this.drag && this.drag.to) {
      const { from, to } = this.drag;
      pen.strokeStyle = style.color;
      pen.setLineDash([4, 3]);
      pen.strokeRect(from[0], from[1], to[0] - from[0], to[1] - from[1]);
      pen.setLineDash([]);
    }
  }

  line(pen, { xs, ys, errors }) {
    pen.beginPath();
    let open = false;
    for (let i = 0; i < xs.length; i++) {
      const y = this.atY(ys[i]);
      if (!Number.isFinite(y)) {
        open = false; // a gap where there is no number
        continue;
      }
      if (open) pen.lineTo(this.atX(xs[i]), y);
      else pen.moveTo(this.atX(xs[i]), y);
      open = true;
    }
    pen.stroke();
    if (!this.dots && xs.length > 1) return;
    for (let i = 0; i < xs.length; i++) {
      const x = this.atX(xs[i]), y = this.atY(ys[i]);
      if (!Number.isFinite(y)) continue;
      pen.beginPath();
      pen.arc(x, y, 3, 0, 7);
      pen.fill();
      if (errors && errors[i]) {
        pen.beginPath();
        pen.moveTo(x, this.atY(ys[i] - errors[i]));
        pen.lineTo(x, this.atY(ys[i] + errors[i]));
        pen.stroke();
      }
    }
  }

  axes(pen, style) {
    const { box, range: [left, right, bottom, top] } = this;
    pen.font = `11px ${style.fontFamily}`;
    pen.fillStyle = style.color;
    pen.strokeStyle = style.borderTopColor;
    pen.lineWidth = 1;
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (const tick of ticks(bottom, top, 5)) {
      const y = box.y + ((top - tick) / (top - bottom)) * box.h;
      pen.beginPath();
      pen.moveTo(box.x, y);
      pen.lineTo(box.x + box.w, y);
      pen.stroke();
      pen.fillText(told(this.logs ? 10 ** tick : tick), box.x - 6, y);
    }
    pen.textAlign = "center";
    pen.textBaseline = "top";
    const lengths = this.dots && [...new Set(this.lines.flatMap((line) => line.xs))].map(Math.log2);
    for (const tick of (lengths || ticks(left, right, Math.max(3, box.w / 90))).filter((x) => x >= left && x <= right)) {
      pen.fillText(this.dots ? String(Math.round(2 ** tick)) : told(tick), box.x + ((tick - left) / (right - left)) * box.w, box.y + box.h + 6);
    }
    pen.fillText(this.xName, box.x + box.w / 2, box.y + box.h + 22);
  }

  nearest(px, py) {
    let best = null, least = 18 * 18;
    for (const line of this.visible()) {
      for (let i = 0; i < line.xs.length; i++) {
        const away = (this.atX(line.xs[i]) - px) ** 2 + (this.atY(line.ys[i]) - py) ** 2;
        if (away < least) [least, best] = [away, { line, i }];
      }
    }
    return best;
  }

  zoom(from, to) {
    const { box, range: [left, right, bottom, top] } = this;
    const x = (px) => left + ((px - box.x) / box.w) * (right - left);
    const y = (py) => top - ((py - box.y) / box.h) * (top - bottom);
    const xs = [x(from[0]), x(to[0])].sort((a, b) => a - b), ys = [y(from[1]), y(to[1])].sort((a, b) => a - b);
    this.view = [...xs, ...ys];
    redraw();
  }

  move(factor, dx, dy) {
    const [left, right, bottom, top] = this.range;
    const width = (right - left) * factor, height = (top - bottom) * factor;
    const x = (left + right) / 2 + dx * width, y = (bottom + top) / 2 + dy * height;
    this.view = [x - width / 2, x + width / 2, y - height / 2, y + height / 2];
    redraw();
  }

  listen() {
    const at = (event) => {
      const frame = this.canvas.getBoundingClientRect();
      return [event.clientX - frame.left, event.clientY - frame.top];
    };
    const on = (name, action) => this.canvas.addEventListener(name, action);
    on("pointerdown", (event) => {
      if (event.button) return;
      this.drag = { from: at(event), to: null };
      this.canvas.setPointerCapture(event.pointerId);
    });
    on("pointermove", (event) => {
      const here = at(event);
      if (this.drag) {
        this.drag.to = here;
        redraw();
      } else if (this.box) this.tell(here, event);
    });
    on("pointerup", () => {
      const drag = this.drag;
      this.drag = null;
      if (drag && drag.to && Math.abs(drag.to[0] - drag.from[0]) > 5 && Math.abs(drag.to[1] - drag.from[1]) > 5) this.zoom(drag.from, drag.to);
      else redraw();
    });
    on("pointercancel", () => ((this.drag = null), redraw()));
    on("pointerleave", () => this.tell(null));
    on("dblclick", () => ((this.view = null), redraw()));
    on("keydown", (event) => {
      const moves = { "+": [0.7, 0, 0], "=": [0.7, 0, 0], "-": [1.4, 0, 0], ArrowLeft: [1, -0.2, 0], ArrowRight: [1, 0.2, 0], ArrowUp: [1, 0, 0.2], ArrowDown: [1, 0, -0.2] };
      if (event.key === "0" || event.key === "Escape") this.view = null;
      else if (moves[event.key] && this.range) this.move(...moves[event.key]);
      else return;
      event.preventDefault();
      redraw();
    });
  }

  tell(here, event) {
    const found = here && this.nearest(...here), tip = byId("tip");
    tip.hidden = !found;
    if (found) {
      const { line, i } = found;
      const spread = line.errors ? ` ± ${told(line.errors[i])}` : "";
      tip.textContent = `${line.name} · ${this.xName} ${line.xs[i]}: ${told(line.ys[i])}${spread}`;
      tip.style.left = `${Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8)}px`;
      tip.style.top = `${Math.min(event.clientY + 14, window.innerHeight - tip.offsetHeight - 8)}px`;
    }
    hover(found ? [found.line.row] : []);
  }
}

function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= rough) || 10);
  const found = [];
  for (let index = Math.ceil(low / step); index * step <= high; index++) found.push(+(index * step).toPrecision(12));
  return found;
}

function told(value) {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (size >= 1e4 || (size && size < 1e-3)) {
    for (const [scale, suffix] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
      if (size >= scale) return `${+(value / scale).toPrecision(4)}${suffix}`;
    }
    return value.toExponential(2).replace(/\.?0+e/, "e");
  }
  return String(+value.toPrecision(4));
}
