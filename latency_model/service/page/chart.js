// Staircases drawn by Plotly, which is loaded at the first use. No text from outside goes into a chart.

import { duration } from "./dom.js";

const SYMBOLS = ["circle", "square", "triangle-up", "diamond", "cross"];
const DASHES = ["solid", "dash", "dot", "dashdot"];
const dark = matchMedia("(prefers-color-scheme: dark)");
const narrow = matchMedia("(max-width: 40rem)");
const meta = name => document.querySelector(`meta[name="gharial-${name}"]`).content;

let plotly = null;

function loaded() {
  plotly ??= new Promise((done, fail) => {
    const script = document.createElement("script");
    script.src = meta("plotly");
    script.addEventListener("load", () => done(window.Plotly));
    script.addEventListener("error", () => {
      plotly = null;
      script.remove();
      fail(new Error("The script that draws charts did not come; the numbers are below."));
    });
    document.head.append(script);
  });
  return plotly;
}

function luminance(colour) {
  const parts = [1, 3, 5].map(at => parseInt(colour.slice(at, at + 2), 16) / 255)
    .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
}

/** Return the ratio of contrast of two colours like #0072B2. */
export function contrast(one, other) {
  const [high, low] = [luminance(one), luminance(other)].sort((a, b) => b - a);
  return (high + 0.05) / (low + 0.05);
}

const value = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Return colour, symbol and dash of a line by its place: colours that show on the paper, then other dashes. */
export function look(place) {
  const colours = meta("colours").split(" ").filter(colour => contrast(colour, value("--paper")) >= 3);
  return { colour: colours[place % colours.length], symbol: SYMBOLS[place % SYMBOLS.length], dash: DASHES[Math.floor(place / colours.length + place) % DASHES.length] };
}

function traces(line, place) {
  const { colour, symbol, dash } = look(place);
  const hover = line.counts.map((count, at) => `${line.letter}: ${count} channels, ${duration(line.latency_us[at])}`);
  const efficient = new Set(line.efficient);
  const chosen = line.counts.flatMap((count, at) => efficient.has(count) ? [at] : []);
  return [{
    type: "scatter", mode: "lines", x: line.counts, y: line.envelope_us, opacity: 0.35, hoverinfo: "skip",
    line: { shape: "vh", color: colour, width: 5 },
  }, {
    type: "scatter", mode: "lines+markers", x: line.counts, y: line.latency_us, text: hover, hovertemplate: "%{text}<extra></extra>",
    line: { shape: "hvh", color: colour, width: 1.5, dash }, marker: { symbol, size: line.counts.length > 200 ? 3 : 6, color: colour },
    error_y: {
      type: "data", symmetric: false, thickness: 1, width: 2, color: colour,
      array: line.high_us.map((high, at) => high - line.latency_us[at]), arrayminus: line.low_us.map((low, at) => line.latency_us[at] - low),
    },
  }, {
    type: "scatter", mode: "markers", x: chosen.map(at => line.counts[at]), y: chosen.map(at => line.envelope_us[at]), hoverinfo: "skip",
    marker: { symbol: "diamond-open", size: 13, color: value("--ink"), line: { width: 2, color: colour } },
  }];
}

let drawn = null;

/** Draw staircases, each with the letter that the legend explains. Rejects where Plotly cannot be loaded. */
export async function draw(place, lines, axis) {
  drawn = { place, lines, axis };
  const Plotly = await loaded();
  if (drawn.lines !== lines) return;
  const ink = value("--ink"), grid = value("--line");
  const shared = { gridcolor: grid, linecolor: value("--border"), zeroline: false, automargin: true, fixedrange: narrow.matches };
  await Plotly.react(place, lines.flatMap(traces), {
    template: "none", paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, hovermode: "closest",
    margin: { l: 10, r: 10, t: 10, b: 40 }, font: { color: ink, family: "system-ui, sans-serif", size: 12 },
    hoverlabel: { bgcolor: value("--card"), bordercolor: value("--border"), font: { color: ink } },
    xaxis: { ...shared, title: { text: axis === "out" ? "output channels" : "input channels" }, showgrid: false },
    yaxis: { ...shared, title: { text: "latency (µs)" }, rangemode: "tozero" },
  }, { displayModeBar: false, responsive: true });
}

/** Return a small picture of a line's mark, for the legend. */
export function swatch(place) {
  const { colour, dash } = look(place);
  const made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const dashes = { solid: "", dash: "7 4", dot: "2 4", dashdot: "7 3 2 3" };
  for (const [name, given] of Object.entries({ width: 34, height: 12, "aria-hidden": "true" })) made.setAttribute(name, given);
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  for (const [name, given] of Object.entries({ x1: 0, x2: 34, y1: 6, y2: 6, stroke: colour, "stroke-width": 4, "stroke-dasharray": dashes[dash] })) line.setAttribute(name, given);
  made.append(line);
  return made;
}

/** Call what draws again when the reader's colours or the width change. */
export function whenColoursChange(again) {
  dark.addEventListener("change", again);
  narrow.addEventListener("change", again);
}
