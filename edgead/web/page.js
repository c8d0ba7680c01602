// The operators' page: one WebSocket in, and what it says on the screen. It asks for nothing but the next message.
import { OUTCOMES, Tile, drawStrip, duration, element, milliseconds, number, setBar, symbol } from "./drawing.js";

const $ = (id) => document.getElementById(id);
const SILENCE_MS = 2000; // then what is shown is called old
const KEPT = 256, RETRY_MS = 700, CROWDED_MS = 5000, CROWDED = 1013;
const CLOCK = "en-GB"; // 24 hours, whatever the browser speaks
const ROWS_MS = 400; // tables need not change ten times a second

const state = { layout: null, numbers: null, tiles: [], events: [], ids: new Set(), parts: new Map() };
const link = { socket: null, heardMs: 0, since: Date.now(), refused: "", rowsMs: 0, skewS: 0 };
const display = { heat: true, opacity: 0.85 };

// ---- the connection -----------------------------------------------------------------------------------------------

function connect() {
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`);
  socket.binaryType = "arraybuffer";
  link.socket = socket;
  let opened = false;
  socket.onopen = () => { opened = true; link.heardMs = performance.now(); };
  socket.onmessage = async (message) => {
    link.heardMs = performance.now();
    link.refused = "";
    try {
      await take(message.data);
    } finally {
      if (socket.readyState === WebSocket.OPEN) socket.send("a"); // drawn: the next may come
    }
  };
  socket.onclose = async (event) => {
    if (link.socket !== socket) return;
    link.socket = null;
    link.refused = event.code === CROWDED ? event.reason : "";
    if (!opened && (await asksForToken())) { location.assign("login"); return; }
    setTimeout(connect, link.refused ? CROWDED_MS : RETRY_MS);
    watch();
  };
}

async function asksForToken() {
  try {
    const answer = await fetch("./", { redirect: "manual", cache: "no-store" });
    return answer.type === "opaqueredirect";
  } catch {
    return false;
  }
}

/** Say whether what is shown can be believed; four times a second, whatever the connection does. */
function watch() {
  const silentMs = performance.now() - link.heardMs;
  const numbers = state.numbers;
  let what = "", why = "";
  if (numbers?.ended) {
    what = numbers.ended === "died" ? "DISCONNECTED" : "STATION ENDED";
    why = numbers.ended === "died" ? "The station's process has died." : "The station has ended its run.";
  }
  if (!link.socket || link.socket.readyState !== WebSocket.OPEN || silentMs > SILENCE_MS) {
    what = what || "DISCONNECTED";
    why = link.refused || `${why || "No connection to the server of this page."} Trying again.`;
    if (silentMs > 3 * SILENCE_MS && link.socket?.readyState === WebSocket.OPEN) link.socket.close();
  } else if (!what && numbers && numbers.beat_age_s > 2) {
    what = "DISCONNECTED";
    why = `No sign of life from the station for ${duration(numbers.beat_age_s)}. This page's server answers.`;
  }
  const wasOn = $("alarm").hidden;
  const isOn = !what && numbers !== null;
  if (wasOn !== !what) link.since = Date.now();
  if (what) why += ` Since ${new Date(link.since).toLocaleTimeString(CLOCK)}; images and figures are old.`;
  $("alarm").hidden = !what;
  if ($("alarm-what").textContent !== what) $("alarm-what").textContent = what;
  if ($("alarm-why").textContent !== why) $("alarm-why").textContent = why;
  document.body.classList.toggle("stale", Boolean(what));
  $("state").textContent = isOn ? "● RUNNING" : what ? `▲ ${what}` : "connecting";
  $("state").className = `pill ${isOn ? "on" : "off"}`;
  const nowS = Date.now() / 1000 + link.skewS;
  $("clock").textContent = new Date(nowS * 1000).toLocaleTimeString(CLOCK);
  for (const tile of state.tiles) if (tile.facts) tile.showAge(nowS - tile.facts.captured_s);
}

// ---- a message ----------------------------------------------------------------------------------------------------

async function take(buffer) {
  const length = new DataView(buffer).getUint32(0);
  const said = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  if (said.layout) build(said.layout);
  state.numbers = said.numbers;
  link.skewS = said.numbers.time_s - Date.now() / 1000; // the clock of the station's machine, not of this screen
  let at = 4 + length;
  const drawn = said.tiles.map((facts) => {
    const image = new Uint8Array(buffer, at, facts.image);
    const heat = new Uint8Array(buffer, at + facts.image, facts.heat);
    at += facts.image + facts.heat;
    const tile = state.tiles[facts.slot];
    return tile.take(facts, image, heat).then(() => tile.draw(display));
  });
  remember(said.verdicts);
  await Promise.allSettled(drawn);
  const nowMs = performance.now();
  if (said.layout || nowMs - link.rowsMs > ROWS_MS) {
    link.rowsMs = nowMs;
    showNumbers(said.numbers);
  }
  watch();
}

function build(layout) {
  Object.assign(state, { layout, events: [], ids: new Set(), parts: new Map() });
  document.title = `${layout.station} – edgead`;
  $("station").textContent = layout.station;
  const backend = layout.backend ? ` on ${layout.backend}` : "";
  $("runs").textContent = `${layout.artefact}${backend} · ${layout.runner} · since ${new Date(layout.started).toLocaleString(CLOCK)}`;
  const views = [...new Set(layout.slots.map(([view]) => view))];
  const lights = [...new Set(layout.slots.map(([, light]) => light))];
  state.tiles = layout.slots.map(([view, light]) => new Tile(view, light, layout));
  const root = $("tiles");
  root.replaceChildren(...state.tiles.map((tile) => tile.root));
  place(root, layout, views, lights);
  $("history").tBodies[0].replaceChildren();
  const judged = layout.fusion === "max" ? "the largest score of its frames" : "the p-values of its frames, combined";
  const unsure = layout.unsure < layout.ng ? `UNSURE above ${number(layout.unsure)} · ` : "";
  $("limits").textContent = `${unsure}NG above ${number(layout.ng)}`;
  $("provenance").textContent = `${layout.provenance}. A part is judged by ${judged}.`;
  $("counters").replaceChildren(...["triggers", ...OUTCOMES].map(counter));
  showVerdict(null);
}

/** Views are rows and lights are columns; with one of either, whatever fills the screen best. */
function place(root, layout, views, lights) {
  const slots = layout.slots;
  const fill = (rows, columns) => {
    root.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
    root.style.gridTemplateRows = `repeat(${rows}, minmax(0, 1fr))`;
    root.classList.toggle("dense", rows > 2 || columns > 4);
  };
  if (views.length > 1 && lights.length > 1) {
    fill(views.length, lights.length);
    slots.forEach(([view, light], index) => {
      state.tiles[index].root.style.gridArea = `${views.indexOf(view) + 1} / ${lights.indexOf(light) + 1}`;
    });
    return;
  }
  const columns = Math.ceil(Math.sqrt(slots.length));
  fill(Math.ceil(slots.length / columns), columns);
}

function counter(name) {
  const made = element("div", "", `counter ${name}`), title = element("span", "");
  if (name !== "triggers") title.append(symbol(name));
  title.append(name === "triggers" ? "PARTS" : name);
  const value = element("b", "0");
  value.id = `count-${name}`;
  made.append(value, title);
  return made;
}

// ---- verdicts -----------------------------------------------------------------------------------------------------

function remember(events) {
  const fresh = events.filter((event) => !state.ids.has(event.event_id));
  if (!fresh.length) return;
  for (const event of fresh) {
    state.events.push(event);
    state.ids.add(event.event_id);
  }
  for (const old of state.events.splice(0, Math.max(0, state.events.length - KEPT))) state.ids.delete(old.event_id);
  const body = $("history").tBodies[0];
  body.prepend(...fresh.slice(-KEPT).reverse().map(row));
  while (body.rows.length > KEPT) body.deleteRow(-1);
  showVerdict(state.events.at(-1));
  drawStrip($("strip"), state.events);
}

function row(event) {
  const made = element("tr", "", event.verdict);
  const verdict = element("td");
  verdict.append(symbol(event.verdict), event.verdict);
  const time = new Date(event.time).toLocaleTimeString(CLOCK);
  const worst = event.worst ?? (event.missing?.length ? `missing ${event.missing.join(", ")}` : "");
  const cells = [time, event.part ?? `trigger ${event.trigger}`, number(event.score), worst, milliseconds(event.latency_ms)];
  made.append(verdict, ...cells.map((text) => element("td", text)));
  return made;
}

function showVerdict(event) {
  const outcome = event?.verdict ?? "";
  $("verdict").className = outcome ? `${outcome} ${outcome.length > 6 ? "long" : ""}` : "";
  $("symbol").setAttribute("href", `#s-${outcome || "MISSED"}`);
  $("word").textContent = outcome || "–";
  $("part").textContent = event ? event.part ?? `trigger ${event.trigger}` : "no part yet";
  $("part").title = $("part").textContent;
  $("score").textContent = event?.score == null ? "no score" : `score ${number(event.score)}`;
  const missing = event?.missing?.length ? `missing: ${event.missing.join(", ")}` : "";
  $("worst").textContent = [event?.worst ? `worst: ${event.worst}` : "", missing].filter(Boolean).join(" · ");
  setBar($("bar"), event?.score ?? null, state.layout);
}

// ---- figures ------------------------------------------------------------------------------------------------------

function showNumbers(numbers) {
  $("fps").textContent = numbers.rates.frames.toFixed(1);
  $("pps").textContent = numbers.rates.parts.toFixed(1);
  const part = numbers.stages.find((stage) => stage.name === "part");
  $("p99").textContent = part ? `${milliseconds(part.p99)} ms` : "–";
  $("takt-cell").hidden = numbers.missed_takts === null;
  const deadline = state.layout.deadline_ms ?? state.layout.takt_ms;
  $("takt-name").textContent = deadline ? `late (> ${number(deadline)} ms)` : "late";
  $("takt").textContent = numbers.missed_takts ?? "–";
  $("count-triggers").textContent = numbers.triggers;
  for (const name of OUTCOMES) $(`count-${name}`).textContent = numbers.counts[name] ?? 0;
  showLaw(numbers);
  fill("stages", numbers.stages.map((stage) => {
    const made = cells([stage.name, ...["p50", "p95", "p99", "p999"].map((name) => milliseconds(stage[name]))]);
    made.classList.toggle("slowest", stage.name === "part");
    return made;
  }));
  const busy = Object.entries(numbers.busy).sort((one, two) => two[1] - one[1]).slice(0, 3);
  const shares = busy.map(([name, share]) => `${name} ${Math.round(100 * share)} %`).join(", ");
  $("bottleneck").textContent = numbers.bottleneck ? `Bottleneck: ${numbers.bottleneck}. Busy: ${shares}` : `Busy: ${shares || "–"}`;
  fill("cameras", Object.entries(numbers.cameras).flatMap(([name, camera]) => camera_rows(name, camera)));
  $("outputs-panel").hidden = !numbers.outputs.length;
  fill("outputs", numbers.outputs.flatMap(output_rows));
  const problems = numbers.problems.map((problem) => element("li", problem));
  $("problems").replaceChildren(...problems);
}

function showLaw(numbers) {
  const law = $("law"), kept = numbers.unaccounted === 0;
  law.classList.toggle("broken", !kept);
  const open = `${numbers.open} open, ${numbers.frames} frames judged, ${numbers.unused_frames} unused`;
  const word = element("b", kept ? "✓ every part accounted for" : `✗ ${numbers.unaccounted} PARTS UNACCOUNTED FOR: call for help`);
  law.replaceChildren(word, ` · ${open}`);
}

function cells(texts, warn = []) {
  const made = element("tr");
  made.append(...texts.map((text, index) => element("td", String(text), warn[index] ? "warn" : "")));
  return made;
}

function note(text, columns) {
  const made = element("tr", "", "note"), cell = element("td", text);
  cell.colSpan = columns;
  made.append(cell);
  return made;
}

function camera_rows(name, camera) {
  const { age_s: age, frames, missed, incomplete, reconnects, last_error: error } = camera;
  const texts = [name, duration(age), frames, missed, incomplete, reconnects];
  const warn = [false, age === null || age > 10, false, missed > 0, incomplete > 0, reconnects > 0];
  return error ? [cells(texts, warn), note(error, 6)] : [cells(texts, warn)];
}

function output_rows(output) {
  const lost = (output.dropped ?? 0) + (output.refused ?? 0);
  const texts = [output.name, output.delivered, output.pending, lost, output.errors];
  const made = cells(texts, [false, false, output.pending > 100, lost > 0, output.errors > 0]);
  return output.last_error ? [made, note(output.last_error, 5)] : [made];
}

function fill(id, rows) {
  $(id).tBodies[0].replaceChildren(...rows);
}

// ---- what people do -----------------------------------------------------------------------------------------------

function setDisplay() {
  display.heat = $("heat").checked;
  display.opacity = $("opacity").value / 100;
  for (const tile of state.tiles) tile.draw(display);
}

function setFilter(show) {
  $("history").dataset.show = show;
  for (const button of $("filter").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.show === show));
  }
}

$("heat").addEventListener("change", setDisplay);
$("opacity").addEventListener("input", setDisplay);
$("filter").addEventListener("click", (event) => event.target.closest("button") && setFilter(event.target.closest("button").dataset.show));
addEventListener("resize", () => drawStrip($("strip"), state.events));
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "h") $("heat").click();
  if (event.key === "n") setFilter($("history").dataset.show === "ng" ? "all" : "ng");
});
setInterval(watch, 250);
connect();
