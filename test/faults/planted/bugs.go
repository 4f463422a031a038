package planted

// Bugs are all of them.
func Bugs() []Bug {
	return []Bug{
		{
			Name: "disk-before-commit", What: "writes counters to disk before the transaction is committed",
			Kinds: []string{"kill at", "kill unanswered"},
			Edits: []Edit{{
				File: "internal/ingest/step.go",
				Old:  "\toutcome, err := t.writer.Commit(t.hard, tx)\n",
				New: "\tvar early []Entry\n\tfor i := range records {\n\t\tif r := &records[i]; r.Topic == t.ingest.cfg.ChangelogTopic && string(r.Key[:9]) == `[\"counter` {\n" +
					"\t\t\tearly = append(early, Entry{Key: string(r.Key), Value: r.Value})\n\t\t}\n\t}\n" +
					"\t_ = t.ingest.parts.Store.Apply(t.partition, early, t.changelogEnd)\n" +
					"\toutcome, err := t.writer.Commit(t.hard, tx)\n",
			}},
		},
		{
			Name: "no-fencing", What: "commits under ids of its own and generation -1, so that a zombie goes on",
			Kinds: []string{"zombie"}, Few: true,
			Edits: []Edit{
				{
					File: "internal/ingest/task.go",
					Old:  `fmt.Sprintf("%s-%s-%d", t.ingest.cfg.ApplicationID, t.ingest.cfg.Topic, t.partition)`,
					New:  `fmt.Sprintf("%s-%s-%d-%s", t.ingest.cfg.ApplicationID, t.ingest.cfg.Topic, t.partition, t.name)`,
				},
				{
					File: "internal/kafka/transaction.go",
					Old:  "\tif member.ID == \"\" {\n\t\treq.GenerationID = -1\n\t}\n\tif member.InstanceID != \"\" {\n",
					New:  "\treq.GenerationID, req.MemberID = -1, \"\"\n\tif false {\n",
				},
			},
		},
		{
			Name: "silence-is-success", What: "takes a transaction for committed whose outcome is not known",
			Kinds: []string{"end lost"},
			Edits: []Edit{{
				File: "internal/ingest/step.go",
				Old:  "\t\toutcome, err = t.reconcile(tx.Note, err)\n",
				New:  "\t\tif _, err = t.reconcile(tx.Note, err); t.hard.Err() == nil {\n\t\t\toutcome = kafka.Committed\n\t\t}\n",
			}},
		},
		{
			Name: "silence-is-failure", What: "folds again what may be committed",
			Kinds: []string{"end lost"},
			Edits: []Edit{{
				File: "internal/ingest/step.go",
				Old:  "position.Note == note:\n",
				New:  "position.Note == note && t.log == nil:\n",
			}},
		},
		{
			Name: "no-undo", What: "keeps in memory what an aborted transaction had folded",
			Kinds: []string{"refusal", "end lost"},
			Edits: []Edit{{
				File: "internal/ingest/counter.go", Old: "\tc.state.Rollback()\n", New: "",
			}},
		},
		{
			Name: "restore-skips", What: "leaves out some of the changelog in a restore",
			Kinds: []string{"kill starting"},
			Edits: []Edit{{
				File: "internal/ingest/restore.go",
				Old:  "\t\tr := &batch.Records[i]\n\t\tif err := t.processor.Load(",
				New:  "\t\tr := &batch.Records[i]\n\t\tif r.Offset%5 == 0 && r.Key[2] != 'p' {\n\t\t\tcontinue\n\t\t}\n\t\tif err := t.processor.Load(",
			}},
		},
		{
			Name: "dedupe-outside", What: "keeps the ids of events in memory alone",
			Kinds: []string{"kill"},
			Edits: []Edit{{
				File: "internal/ingest/counter.go", Old: "\tfor i := range changes.Dedupe {\n", New: "\tfor i := range changes.Dedupe[:0] {\n",
			}},
		},
		{
			Name: "letters-twice", What: "keeps the dead letters of an aborted transaction",
			Kinds: []string{"refusal", "end lost"},
			Edits: []Edit{{
				File: "internal/ingest/counter.go",
				Old:  "\tagain, handed := c.taken, c.handed\n\tc.reset()\n",
				New:  "\tagain, handed, letters := c.taken, c.handed, c.letters\n\tc.reset()\n\tc.letters = letters\n",
			}},
		},
		{
			Name: "unwritten", What: "commits a transaction although its records were refused",
			Kinds: []string{"refusal"},
			Edits: []Edit{{
				File: "internal/kafka/transaction.go",
				Old:  "\tif wrote != nil {\n\t\treturn wrote\n\t}\n",
				New:  "",
			}},
		},
		{
			Name: "one-too-far", What: "goes on one record too far after a restore",
			Kinds: []string{"kill"},
			Edits: []Edit{{
				File: "internal/ingest/step.go",
				Old:  "Subscribe(t.ingest.cfg.Topic, t.partition, t.position)",
				New:  "Subscribe(t.ingest.cfg.Topic, t.partition, t.position+min(t.position, 1))",
			}},
		},
		{
			Name: "zombie-answers", What: "answers without being a member",
			Kinds: []string{"cut"},
			Edits: []Edit{{
				File: "internal/app/serve.go",
				Old:  "\tif _, member := p.d.group.Member(); !member {\n\t\treturn nil, false\n\t}\n",
				New:  "",
			}},
		},
		{
			Name: "lost-brother", What: "does not tell the group that a static member has come back", Even: true,
			Kinds: []string{"kill", "contracts"},
			Edits: []Edit{{
				File: "internal/kafka/membership.go", Old: "\tif s.unknown {\n", New: "\tif false {\n",
			}, {
				File: "internal/kafka/assign.go", Old: ", Member: s.id}", New: "}",
			}},
		},
		{
			Name: "position-outside", What: "commits the position apart from the transaction of the counters",
			Kinds: []string{"kill at", "end lost"},
			Edits: []Edit{{
				File: "internal/ingest/step.go",
				Old:  "Records: records, Topic: t.ingest.cfg.Topic, Partition: t.partition, Next: t.folded,\n",
				New:  "Topic: t.ingest.cfg.Topic, Partition: t.partition, Next: t.folded,\n",
			}, {
				File: "internal/ingest/step.go",
				Old:  "\toutcome, err := t.writer.Commit(t.hard, tx)\n",
				New: "\tfirst := tx\n\tfirst.Records, first.Topic = records, \"\"\n\tif outcome, err := t.writer.Commit(t.hard, first); outcome != kafka.Committed {\n" +
					"\t\tt.processor.Rollback()\n\t\tt.folded = t.position\n\t\treturn fmt.Errorf(\"%w: %w\", errAgain, err)\n\t}\n" +
					"\toutcome, err := t.writer.Commit(t.hard, tx)\n",
			}},
		},
		{
			Name: "broken-registry-drops", What: "takes events for undecodable while the registry is down",
			Kinds: []string{"registry"},
			Edits: []Edit{{
				File: "internal/schema/resolve.go",
				Old:  "case errors.Is(err, ErrBadSchema):",
				New:  "case errors.Is(err, ErrBadSchema), errors.Is(err, ErrRegistryDown):",
			}},
		},
	}
}
