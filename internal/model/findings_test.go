package model_test

// findingF10 leaves voids that name no event out of the histories: they are to
// be missing_field before they are an unknown meter (R18), and are not yet.
const findingF10 = true
