// Requests to the server that the page came from, with the token of this tab.

const KEY = "gharial-token";

export const token = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: value => value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY),
};

/** What the server refused, as a sentence; `type` is the server's word for it. */
export class Refused extends Error {
  constructor(message, type, status) {
    super(message);
    this.type = type;
    this.status = status;
  }
}

const away = () => new Refused("The server does not answer; see whether it still runs, then try again.", "away", 0);

function refusal(status, text) {
  let found = null;
  try {
    found = JSON.parse(text).error;
  } catch { /* an answer of something between us and the server */ }
  if (!found?.message) return new Refused(`The server answered with the status ${status} and no reason.`, "unknown", status);
  return new Refused(sentence(found.message), found.type, status);
}

function sentence(text) {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}

function headers(more = {}) {
  const secret = token.get();
  return secret ? { ...more, Authorization: `Bearer ${secret}` } : more;
}

/** Return the JSON of a request; `query` may hold lists. Throws Refused. */
export async function call(path, { query = {}, method = "GET", body, type, signal, more } = {}) {
  const answer = await fetch(address(path, query), {
    method, body, signal, headers: headers({ ...more, ...(type ? { "Content-Type": type } : {}) }),
    credentials: "omit", cache: "no-store", redirect: "error",
  }).catch(error => { throw error.name === "AbortError" ? error : away(); });
  const text = await answer.text();
  if (!answer.ok) throw refusal(answer.status, text);
  return JSON.parse(text);
}

export function address(path, query) {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== "" && value !== null && value !== undefined) found.append(name, value);
  }
  const text = found.toString();
  return text ? `${path}?${text}` : path;
}

/** Send a file and return the JSON of the answer; `sent` hears how much is on its way. fetch cannot say that. */
export function upload(path, query, file, { sent, signal }) {
  return new Promise((done, fail) => {
    const request = new XMLHttpRequest();
    request.open("POST", address(path, query));
    for (const [name, value] of Object.entries(headers({ "Content-Type": "application/octet-stream" }))) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", event => sent(event.loaded, event.total));
    request.addEventListener("load", () => {
      if (request.status < 200 || request.status > 299) return fail(refusal(request.status, request.responseText));
      return done(JSON.parse(request.responseText));
    });
    request.addEventListener("error", () => fail(away()));
    request.addEventListener("abort", () => fail(new DOMException("cancelled", "AbortError")));
    signal.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}

/** Return a key under which a repeated request makes one job; crypto.randomUUID lacks outside of HTTPS. */
export const once = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), part => part.toString(16).padStart(2, "0")).join("");
