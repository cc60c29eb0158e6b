// TODO
import { heading } from "./heading.js";

export async function showFind(body, query) {
  body.replaceChildren(heading(query, null));
}
