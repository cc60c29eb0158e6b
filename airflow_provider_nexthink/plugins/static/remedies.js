// Stub: what a row's reason means, and what a person does about it.

export function remedyOf({ status, reason }) {
  return { reason: reason ? `${status}: ${reason}` : status, remedy: "" };
}
