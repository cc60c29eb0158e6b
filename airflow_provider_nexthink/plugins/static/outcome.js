// TODO: merged from its own branch

export async function showOutcome() {}
