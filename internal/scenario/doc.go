// Package scenario runs the examples of docs/semantics.md.
//
// An example is a few lines that say what comes in and what meterd tells of it.
// Open finds them in the document; Memory runs one against the state of a
// partition, in several ways that must not make a difference; Stage plays many
// of them at once through Kafka, with the whole daemon in between, and demands
// that it tells exactly what Memory told.
//
// The notation, a line a step:
//
//	[TIME] CLIENT METER [QUANTITY] [id=ID] [at=TIME] [NAME=VALUE …] [void] [aborted] [misplaced]
//	[TIME] record CLIENT JSON
//	[TIME] contract ID CLIENT [from TIME] [until TIME] [in ZONE]: LIMIT [and LIMIT …]
//	[TIME] contract ID JSON
//	[TIME] remove ID
//	[TIME] clock
//	[TIME] restart
//	[TIME] history CLIENT METER QUANTITY [events=N] [at=TIME] [NAME=VALUE …]
//	[TIME] history answers | fails
//	usage CLIENT METER [in PERIOD] [of CONTRACT] [NAME=VALUE …] -> TOTAL [pending] [(N events)]
//	state CONTRACT/LIMIT[VALUE] -> LABELS | nothing
//	check CLIENT METER [QUANTITY] [NAME=VALUE …] -> allowed|denied[, LIMIT leaves REMAINING [and blocks] …] | incomplete
//	config KEY: VALUE
//
// where a LIMIT is
//
//	ID METER VALUE [per PERIOD] [in ZONE] [at LABEL …] [soft] [where NAME=VALUE …] [each NAME …]
//
// TIME is HH:MM[:SS[.mmm]], a date, or both with a T between them, in UTC; what
// is left out is that of the step before. It is when the record was produced;
// at= is the time that the event itself carries.
//
// After -> stands what comes of a step, with commas between: what became of the
// record (counted where nothing is said: late, left out, misplaced, duplicate,
// voided, ignored, dead letter REASON, rejected TEXT) and every limit event, in
// order:
//
//	KIND [[CONTRACT/]LIMIT[VALUE]] LABEL … [(BEFORE -> AFTER)|(at TOTAL)] [in PERIOD] [by CAUSE]
//	     [of LIMIT-VALUE] [for CLIENT] [standing LABEL …|nothing] [late] [seeded] [#SEQUENCE] [id UUID]
//
// A step that says nothing of limit events has none. A line that begins with
// -> goes on with the step before it.
package scenario
