// An ONNX file: sent, estimated, and shown by layer.

import { upload } from "./api.js";
import { environments } from "./devices.js";
import { announce, byId, el, size } from "./dom.js";
import { measure } from "./measure.js";
import { problem } from "./problem.js";
import { result } from "./layers.js";

let file = null;
let sending = null;

export function start() {
  const drop = byId("drop");
  byId("model-file").addEventListener("change", event => take(event.target.files[0]));
  byId("model-form").addEventListener("submit", event => {
    event.preventDefault();
    if (file) estimate();
  });
  byId("model-cancel").addEventListener("click", () => sending?.abort());
  // A file that misses the frame must not replace the page.
  for (const name of ["dragover", "drop"]) addEventListener(name, event => event.preventDefault());
  drop.addEventListener("dragover", event => {
    event.dataTransfer.dropEffect = "copy";
    drop.classList.add("over");
  });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", event => {
    drop.classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
}

export async function show() {
  const select = byId("model-device");
  if (select.options.length) return;
  byId("model-problem").replaceChildren();
  try {
    const found = await environments();
    select.replaceChildren(...found.map(one => el("option", { value: one.key }, one.text)));
    if (!found.length) problem(byId("model-problem"), new Error("No device has rows yet, so nothing can be estimated."));
  } catch (error) {
    problem(byId("model-problem"), error);
  }
}

export function forget() {
  byId("model-device").replaceChildren();
}

function take(given) {
  byId("model-file").value = ""; // so that the same file, written anew, can be chosen again
  if (!given) return;
  file = given;
  byId("model-again").disabled = false;
  estimate();
}

const query = () => ({ environment: byId("model-device").value, batch: byId("model-batch").value, precision: byId("model-precision").value });

async function estimate() {
  sending?.abort();
  const mine = sending = new AbortController();
  const place = byId("model-problem"), bar = byId("model-bar"), said = byId("model-sent");
  place.replaceChildren();
  byId("model-result").replaceChildren();
  byId("model-summary").textContent = "";
  byId("model-progress").hidden = false;
  bar.value = 0;
  said.textContent = `Sending ${file.name}, ${size(file.size)}`;
  let told = 0;
  const sent = (loaded, total) => {
    bar.value = total ? loaded / total : 0;
    said.textContent = loaded < total ? `Sent ${size(loaded)} of ${size(total)}` : "Sent; waiting for the estimate";
    if (loaded === total) bar.removeAttribute("value");
    if (Math.floor(4 * loaded / total) > told) {
      told = Math.floor(4 * loaded / total);
      announce(said.textContent);
    }
  };
  try {
    const more = { confidence: byId("model-confidence").value, channels: true, name: file.name.slice(0, 200) };
    const found = await upload("/v1/estimate", { ...query(), ...more }, file, { sent, signal: mine.signal });
    if (sending !== mine) return;
    const [text, parts] = result(found);
    byId("model-summary").textContent = text;
    byId("model-result").replaceChildren(...parts);
  } catch (error) {
    if (sending !== mine) return;
    if (error.name === "AbortError") byId("model-summary").textContent = "Cancelled.";
    else problem(place, error, error.type === "not-measured" ? ["Ask for it to be measured", () => ask(place)] : null);
  } finally {
    if (sending === mine) {
      byId("model-progress").hidden = true;
      sending = null;
    }
  }
}

function ask(place) {
  const { environment, batch, precision } = query();
  return measure(place, file, "application/octet-stream",
    { batch, precision, name: plain(file.name), wants: JSON.stringify({ environment }) });
}

/** Return a file's name as the server takes names of models to be measured. */
function plain(name) {
  return name.replace(/\.onnx$/i, "").replace(/[^A-Za-z0-9.+:_-]+/g, "-").replace(/^[^A-Za-z0-9]+/, "").slice(0, 80) || "model";
}
