// TODO
import { heading } from "./heading.js";

export async function showAttention(body, query) {
  body.replaceChildren(heading(query, null));
}
