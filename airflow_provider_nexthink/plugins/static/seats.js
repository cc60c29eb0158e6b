// TODO
import { heading } from "./heading.js";

export async function showSeats(body, query) {
  body.replaceChildren(heading(query, null));
}
