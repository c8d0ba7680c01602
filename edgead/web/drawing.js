// Tiles and the strip of past verdicts: all that is drawn, and nothing of where it comes from.

export const OUTCOMES = ["OK", "UNSURE", "NG", "INCOMPLETE", "MISSED", "REJECTED"];
const HEIGHTS = { OK: 0.3, UNSURE: 0.6, NG: 1, INCOMPLETE: 0.45, MISSED: 0.45, REJECTED: 0.45 };
const KEPT = 256;

export function element(tag, text = "", kind = "") {
  const made = document.createElement(tag);
  made.textContent = text; // never as HTML: names come from outside
  if (kind) made.className = kind;
  return made;
}

export function symbol(outcome) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#s-${outcome}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

export function number(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(2) : String(Number(value.toPrecision(digits)));
}

/** Milliseconds, with as many digits as anybody reads. */
export function milliseconds(value) {
  if (value === null || value === undefined) return "–";
  return value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0);
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "never";
  if (seconds < 10) return `${Math.max(0, seconds).toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

export function judge(score, limits) {
  return score > limits.ng ? "NG" : score > limits.unsure ? "UNSURE" : "OK";
}

/** Set a bar: NG's limit stands at two thirds, so that what lies beyond has room. */
export function setBar(bar, score, limits) {
  const low = Math.min(0, limits.unsure);
  const high = low + Math.max(1.5 * (limits.ng - low), 1e-9);
  const at = (value) => `${(100 * Math.min(1, Math.max(0, (value - low) / (high - low)))).toFixed(1)}%`;
  bar.querySelector(".fill").style.width = score === null ? "0" : at(score);
  bar.querySelector(".tick.unsure").style.left = at(limits.unsure);
  bar.querySelector(".tick.ng").style.left = at(limits.ng);
}

/** One view under one light. */
export class Tile {
  constructor(view, light, layout) {
    this.limits = layout.fusion === "max" ? layout : null; // else a frame's score is on another scale than the limits
    this.image = this.heat = this.facts = null;
    this.canvas = element("canvas");
    [this.canvas.height, this.canvas.width] = layout.size_hw;
    this.title = light === "0" ? view : `${view} · ${light}`;
    this.word = element("span", "–", "word");
    this.score = element("span", "", "score");
    this.age = element("span", "waiting", "age");
    this.bar = element("div", "", "bar");
    this.bar.append(element("i", "", "fill"), element("i", "", "tick unsure"), element("i", "", "tick ng"));
    this.sign = element("span");
    const foot = element("div", "", "foot");
    foot.append(this.sign, this.word, this.score, this.bar);
    this.root = element("article", "", "tile");
    this.root.append(this.canvas, element("span", this.title, "where"), this.age, foot);
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", `${this.title}: no image yet`);
  }

  async take(facts, image, heat) {
    const [picture, map] = await Promise.all([
      createImageBitmap(new Blob([image], { type: "image/jpeg" })),
      createImageBitmap(new Blob([heat], { type: "image/png" })),
    ]);
    this.image?.close();
    this.heat?.close();
    [this.image, this.heat, this.facts] = [picture, map, facts];
    this.score.textContent = number(facts.score);
    if (!this.limits) {
      this.canvas.setAttribute("aria-label", `${this.title}: score ${number(facts.score)}`);
      return;
    }
    const verdict = judge(facts.score, this.limits);
    if (this.root.dataset.verdict !== verdict) {
      this.root.dataset.verdict = verdict;
      this.root.className = `tile ${verdict}`;
      this.sign.replaceChildren(symbol(verdict));
      this.word.textContent = verdict;
    }
    this.canvas.setAttribute("aria-label", `${this.title}: ${verdict}, score ${number(facts.score)}`);
    setBar(this.bar, facts.score, this.limits);
  }

  draw(display) {
    if (!this.image) return;
    const { canvas } = this;
    if (canvas.width !== this.image.width || canvas.height !== this.image.height) {
      [canvas.width, canvas.height] = [this.image.width, this.image.height];
    }
    const context = canvas.getContext("2d");
    context.globalAlpha = 1;
    context.drawImage(this.image, 0, 0);
    if (display.heat) {
      context.globalAlpha = display.opacity;
      context.imageSmoothingEnabled = true;
      context.drawImage(this.heat, 0, 0, canvas.width, canvas.height);
    }
  }

  showAge(seconds) {
    this.age.textContent = seconds > 2 ? `${duration(seconds)} old` : "";
    this.age.hidden = seconds <= 2;
  }
}

/** Draw the last verdicts, the newest at the right; height tells them apart as well as colour. */
export function drawStrip(canvas, verdicts) {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d");
  const colours = getComputedStyle(document.documentElement);
  const step = width / KEPT;
  context.clearRect(0, 0, width, height);
  verdicts.slice(-KEPT).reverse().forEach((event, back) => {
    const tall = Math.max(2, HEIGHTS[event.verdict] * (height - 2));
    const left = width - (back + 1) * step;
    context.fillStyle = context.strokeStyle = colours.getPropertyValue(`--${event.verdict}`);
    if (["OK", "UNSURE", "NG"].includes(event.verdict)) {
      context.fillRect(left, height - tall, Math.max(1, step - 1), tall);
    } else {
      context.strokeRect(left + 0.5, height - tall + 0.5, Math.max(1, step - 2), tall - 1);
    }
  });
  const counts = OUTCOMES.map((name) => [name, verdicts.filter((event) => event.verdict === name).length]);
  const words = counts.filter(([, count]) => count).map(([name, count]) => `${count} ${name}`);
  canvas.setAttribute("aria-label", `last ${verdicts.length} verdicts: ${words.join(", ") || "none"}`);
}
