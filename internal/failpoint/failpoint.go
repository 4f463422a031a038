// Package failpoint names the points at which a test wants the process to die
// or to stand still.
//
// In a normal build Hit does nothing and costs nothing. Built with the tag
// failpoints, a process reads the file that FAILPOINTS names, which may
// come and go while it runs, and has one line:
//
//	POINT ACTION NTH
//
// At the NTH time that POINT is reached since the file came, the process
// removes the file and does ACTION to itself: "kill" is SIGKILL, "stop" is
// SIGSTOP. Test builds can also have their clock set, by FAILPOINTS_CLOCK
// (see Now).
package failpoint

// The points, in the order of a record's way. Each is reached when what it is
// named after has just been done, and nothing after it. A partition's steps (of
// package ingest) are points too, under their own names.
const (
	Fetched       = "fetched"        // a batch has come
	Begun         = "begun"          // partitions are in the transaction
	OffsetsAdded  = "offsets-added"  // the group is in the transaction
	Written       = "written"        // the brokers have all records of it
	Placed        = "placed"         // and the group's coordinator the position
	Ended         = "ended"          // EndTxn is answered
	Settled       = "settled"        // an unknown outcome is, by InitProducerId
	DiskWriting   = "disk-writing"   // what goes to disk is ready
	DiskChunk     = "disk-chunk"     // a part of it is there, the marker is not
	DiskWritten   = "disk-written"   // all of it is there
	Replayed      = "replayed"       // a batch of the changelog is taken in
	Seeded        = "seeded"         // history has answered
	HandedOver    = "handed-over"    // the last write to disk is made
	ContractTaken = "contract-taken" // a change of contracts is in the table
)
