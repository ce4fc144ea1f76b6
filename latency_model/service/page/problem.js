// What went wrong, where it went wrong, and what can be done about it.

import { byId, el } from "./dom.js";

/** Show a sentence in a place that is read out; `action` is [label, what to do] or nothing. */
export function problem(place, error, action) {
  const needs = error.status === 401 || error.status === 403;
  const button = action ? el("button", { type: "button", click: action[1] }, action[0])
    : needs ? el("button", { type: "button", click: askForToken }, "Enter a token") : null;
  const shown = el("div", { class: "problem" }, el("p", {}, error.message ?? String(error)), button);
  place.append(shown);
}

export function askForToken() {
  byId("access").open = true;
  byId("token").focus();
}
