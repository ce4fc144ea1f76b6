// Asking for what is not known to be measured.

import { call, once } from "./api.js";
import { el } from "./dom.js";
import { problem } from "./problem.js";

/** Submit a job and say what became of it in `place`. */
export async function measure(place, body, type, query = {}) {
  try {
    const job = await call("/v1/jobs", { method: "POST", body, type, query, more: { "Idempotency-Key": once() } });
    place.replaceChildren(el("p", {}, `Job ${job.id.slice(0, 8)} waits for a worker. `, el("a", { href: "#jobs" }, "See the jobs")));
  } catch (error) {
    problem(place, error);
  }
}
