-- A journal of Backfold 0.1.0: a deletion of a domain that is off, killed with its
-- helper while it copied. Made by `iterdump`; @...@ is filled in by the test.
BEGIN TRANSACTION;
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
) STRICT;
INSERT INTO "_sqlite_migrations" VALUES(1,'backfold','version_1','2026-11-27 01:10:15.382645+00:00');
CREATE TABLE allowed_folds (
    deletion_state TEXT NOT NULL,
    fold_state TEXT NOT NULL,
    PRIMARY KEY (deletion_state, fold_state)
) STRICT;
INSERT INTO "allowed_folds" VALUES('prepare','planned');
INSERT INTO "allowed_folds" VALUES('start_paused','planned');
INSERT INTO "allowed_folds" VALUES('commit_per_disk','converged');
INSERT INTO "allowed_folds" VALUES('commit_per_disk','copying');
INSERT INTO "allowed_folds" VALUES('commit_per_disk','planned');
INSERT INTO "allowed_folds" VALUES('vote','converged');
INSERT INTO "allowed_folds" VALUES('pivot','converged');
INSERT INTO "allowed_folds" VALUES('pivot','copying');
INSERT INTO "allowed_folds" VALUES('pivot','switched');
INSERT INTO "allowed_folds" VALUES('pivot','voted');
INSERT INTO "allowed_folds" VALUES('update_metadata','retired');
INSERT INTO "allowed_folds" VALUES('update_metadata','switched');
INSERT INTO "allowed_folds" VALUES('stop','retired');
INSERT INTO "allowed_folds" VALUES('completed','retired');
INSERT INTO "allowed_folds" VALUES('roll_back','converged');
INSERT INTO "allowed_folds" VALUES('roll_back','copying');
INSERT INTO "allowed_folds" VALUES('roll_back','failed');
INSERT INTO "allowed_folds" VALUES('roll_back','planned');
INSERT INTO "allowed_folds" VALUES('rolled_back','cancelled');
INSERT INTO "allowed_folds" VALUES('rolled_back','failed');
CREATE TABLE creations (
    id TEXT PRIMARY KEY CHECK (length(id) = 12),
    machine TEXT NOT NULL DEFAULT 'creation' CHECK (machine = 'creation'),
    domain TEXT NOT NULL,
    snapshot TEXT NOT NULL,
    state TEXT NOT NULL,
    generation INTEGER NOT NULL DEFAULT 1,
    plan TEXT NOT NULL,
    reason TEXT,
    started TEXT NOT NULL,
    finished TEXT,
    FOREIGN KEY (machine, state) REFERENCES declared_states (machine, state)
) STRICT;
INSERT INTO "creations" VALUES('8af517d6958f','creation','web','s1','recorded',1,'{"boot_id": "a477550b-7a6d-4bc3-8aff-db3f683de1ad", "domain": "web", "overlays": [{"frozen": {"file": {"device": @DEVICE@, "inode": @INODE:vda.qcow2@}, "format": "qcow2", "path": "@FOLDER@/vda.qcow2", "virtual_size": 67108864}, "frozen_stamp": {"mtime_ns": 1795741811858182250, "size": 196616}, "link": "@FOLDER@/vda.qcow2", "overlay": "@FOLDER@/vda.s1", "target": "vda"}], "power": "off", "snapshot": "s1", "version": 1}',NULL,'2026-11-27T01:10:19.257563+00:00','2026-11-27T01:10:19.584991+00:00');
CREATE TABLE declared_states (
    machine TEXT NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (machine, state)
) STRICT;
INSERT INTO "declared_states" VALUES('deletion','validate');
INSERT INTO "declared_states" VALUES('deletion','prepare');
INSERT INTO "declared_states" VALUES('deletion','start_paused');
INSERT INTO "declared_states" VALUES('deletion','commit_per_disk');
INSERT INTO "declared_states" VALUES('deletion','vote');
INSERT INTO "declared_states" VALUES('deletion','pivot');
INSERT INTO "declared_states" VALUES('deletion','update_metadata');
INSERT INTO "declared_states" VALUES('deletion','stop');
INSERT INTO "declared_states" VALUES('deletion','completed');
INSERT INTO "declared_states" VALUES('deletion','roll_back');
INSERT INTO "declared_states" VALUES('deletion','rolled_back');
INSERT INTO "declared_states" VALUES('deletion','refused');
INSERT INTO "declared_states" VALUES('fold','planned');
INSERT INTO "declared_states" VALUES('fold','copying');
INSERT INTO "declared_states" VALUES('fold','converged');
INSERT INTO "declared_states" VALUES('fold','voted');
INSERT INTO "declared_states" VALUES('fold','switched');
INSERT INTO "declared_states" VALUES('fold','retired');
INSERT INTO "declared_states" VALUES('fold','cancelled');
INSERT INTO "declared_states" VALUES('fold','failed');
INSERT INTO "declared_states" VALUES('creation','planned');
INSERT INTO "declared_states" VALUES('creation','overlays_made');
INSERT INTO "declared_states" VALUES('creation','switched');
INSERT INTO "declared_states" VALUES('creation','recorded');
INSERT INTO "declared_states" VALUES('creation','undone');
CREATE TABLE declared_transitions (
    machine TEXT NOT NULL,
    source TEXT NOT NULL,
    trigger TEXT NOT NULL,
    dest TEXT NOT NULL,
    PRIMARY KEY (machine, source, trigger, dest),
    FOREIGN KEY (machine, source) REFERENCES declared_states (machine, state),
    FOREIGN KEY (machine, dest) REFERENCES declared_states (machine, state)
) STRICT;
INSERT INTO "declared_transitions" VALUES('deletion','validate','accept','prepare');
INSERT INTO "declared_transitions" VALUES('deletion','validate','refuse','refused');
INSERT INTO "declared_transitions" VALUES('deletion','prepare','refuse','refused');
INSERT INTO "declared_transitions" VALUES('deletion','prepare','proceed','update_metadata');
INSERT INTO "declared_transitions" VALUES('deletion','prepare','proceed','start_paused');
INSERT INTO "declared_transitions" VALUES('deletion','prepare','proceed','commit_per_disk');
INSERT INTO "declared_transitions" VALUES('deletion','start_paused','proceed','commit_per_disk');
INSERT INTO "declared_transitions" VALUES('deletion','commit_per_disk','proceed','vote');
INSERT INTO "declared_transitions" VALUES('deletion','vote','back_off','commit_per_disk');
INSERT INTO "declared_transitions" VALUES('deletion','vote','decide','pivot');
INSERT INTO "declared_transitions" VALUES('deletion','pivot','annul','vote');
INSERT INTO "declared_transitions" VALUES('deletion','pivot','proceed','update_metadata');
INSERT INTO "declared_transitions" VALUES('deletion','update_metadata','proceed','stop');
INSERT INTO "declared_transitions" VALUES('deletion','update_metadata','proceed','completed');
INSERT INTO "declared_transitions" VALUES('deletion','stop','proceed','completed');
INSERT INTO "declared_transitions" VALUES('deletion','start_paused','replan','prepare');
INSERT INTO "declared_transitions" VALUES('deletion','commit_per_disk','replan','prepare');
INSERT INTO "declared_transitions" VALUES('deletion','vote','replan','prepare');
INSERT INTO "declared_transitions" VALUES('deletion','prepare','abandon','roll_back');
INSERT INTO "declared_transitions" VALUES('deletion','start_paused','abandon','roll_back');
INSERT INTO "declared_transitions" VALUES('deletion','commit_per_disk','abandon','roll_back');
INSERT INTO "declared_transitions" VALUES('deletion','vote','abandon','roll_back');
INSERT INTO "declared_transitions" VALUES('deletion','roll_back','proceed','rolled_back');
INSERT INTO "declared_transitions" VALUES('deletion','validate','claim','validate');
INSERT INTO "declared_transitions" VALUES('deletion','validate','alarm','validate');
INSERT INTO "declared_transitions" VALUES('deletion','validate','request_cancel','validate');
INSERT INTO "declared_transitions" VALUES('deletion','prepare','probe_fence','prepare');
INSERT INTO "declared_transitions" VALUES('deletion','prepare','end_helper','prepare');
INSERT INTO "declared_transitions" VALUES('deletion','prepare','claim','prepare');
INSERT INTO "declared_transitions" VALUES('deletion','prepare','alarm','prepare');
INSERT INTO "declared_transitions" VALUES('deletion','prepare','request_cancel','prepare');
INSERT INTO "declared_transitions" VALUES('deletion','start_paused','start_helper','start_paused');
INSERT INTO "declared_transitions" VALUES('deletion','start_paused','open_images','start_paused');
INSERT INTO "declared_transitions" VALUES('deletion','start_paused','end_helper','start_paused');
INSERT INTO "declared_transitions" VALUES('deletion','start_paused','claim','start_paused');
INSERT INTO "declared_transitions" VALUES('deletion','start_paused','alarm','start_paused');
INSERT INTO "declared_transitions" VALUES('deletion','start_paused','request_cancel','start_paused');
INSERT INTO "declared_transitions" VALUES('deletion','commit_per_disk','reopen_above','commit_per_disk');
INSERT INTO "declared_transitions" VALUES('deletion','commit_per_disk','start_job','commit_per_disk');
INSERT INTO "declared_transitions" VALUES('deletion','commit_per_disk','resume_job','commit_per_disk');
INSERT INTO "declared_transitions" VALUES('deletion','commit_per_disk','dismiss_jobs','commit_per_disk');
INSERT INTO "declared_transitions" VALUES('deletion','commit_per_disk','claim','commit_per_disk');
INSERT INTO "declared_transitions" VALUES('deletion','commit_per_disk','alarm','commit_per_disk');
INSERT INTO "declared_transitions" VALUES('deletion','commit_per_disk','request_cancel','commit_per_disk');
INSERT INTO "declared_transitions" VALUES('deletion','vote','flush_copied','vote');
INSERT INTO "declared_transitions" VALUES('deletion','vote','hold','vote');
INSERT INTO "declared_transitions" VALUES('deletion','vote','stop_guest','vote');
INSERT INTO "declared_transitions" VALUES('deletion','vote','complete_jobs','vote');
INSERT INTO "declared_transitions" VALUES('deletion','vote','sync_written','vote');
INSERT INTO "declared_transitions" VALUES('deletion','vote','fence','vote');
INSERT INTO "declared_transitions" VALUES('deletion','vote','look_again','vote');
INSERT INTO "declared_transitions" VALUES('deletion','vote','release_votes','vote');
INSERT INTO "declared_transitions" VALUES('deletion','vote','claim','vote');
INSERT INTO "declared_transitions" VALUES('deletion','vote','alarm','vote');
INSERT INTO "declared_transitions" VALUES('deletion','vote','request_cancel','vote');
INSERT INTO "declared_transitions" VALUES('deletion','pivot','finalize','pivot');
INSERT INTO "declared_transitions" VALUES('deletion','pivot','release_guest','pivot');
INSERT INTO "declared_transitions" VALUES('deletion','pivot','relink','pivot');
INSERT INTO "declared_transitions" VALUES('deletion','pivot','unfence','pivot');
INSERT INTO "declared_transitions" VALUES('deletion','pivot','sync_headers','pivot');
INSERT INTO "declared_transitions" VALUES('deletion','pivot','close_images','pivot');
INSERT INTO "declared_transitions" VALUES('deletion','pivot','start_helper','pivot');
INSERT INTO "declared_transitions" VALUES('deletion','pivot','open_images','pivot');
INSERT INTO "declared_transitions" VALUES('deletion','pivot','reopen_above','pivot');
INSERT INTO "declared_transitions" VALUES('deletion','pivot','start_job','pivot');
INSERT INTO "declared_transitions" VALUES('deletion','pivot','resume_job','pivot');
INSERT INTO "declared_transitions" VALUES('deletion','pivot','dismiss_jobs','pivot');
INSERT INTO "declared_transitions" VALUES('deletion','pivot','flush_copied','pivot');
INSERT INTO "declared_transitions" VALUES('deletion','pivot','hold','pivot');
INSERT INTO "declared_transitions" VALUES('deletion','pivot','stop_guest','pivot');
INSERT INTO "declared_transitions" VALUES('deletion','pivot','complete_jobs','pivot');
INSERT INTO "declared_transitions" VALUES('deletion','pivot','sync_written','pivot');
INSERT INTO "declared_transitions" VALUES('deletion','pivot','fence','pivot');
INSERT INTO "declared_transitions" VALUES('deletion','pivot','look_again','pivot');
INSERT INTO "declared_transitions" VALUES('deletion','pivot','keep','pivot');
INSERT INTO "declared_transitions" VALUES('deletion','pivot','decide_again','pivot');
INSERT INTO "declared_transitions" VALUES('deletion','pivot','release_votes','pivot');
INSERT INTO "declared_transitions" VALUES('deletion','pivot','end_helper','pivot');
INSERT INTO "declared_transitions" VALUES('deletion','pivot','claim','pivot');
INSERT INTO "declared_transitions" VALUES('deletion','pivot','alarm','pivot');
INSERT INTO "declared_transitions" VALUES('deletion','pivot','request_cancel','pivot');
INSERT INTO "declared_transitions" VALUES('deletion','update_metadata','record','update_metadata');
INSERT INTO "declared_transitions" VALUES('deletion','update_metadata','set_aside','update_metadata');
INSERT INTO "declared_transitions" VALUES('deletion','update_metadata','unlink','update_metadata');
INSERT INTO "declared_transitions" VALUES('deletion','update_metadata','claim','update_metadata');
INSERT INTO "declared_transitions" VALUES('deletion','update_metadata','alarm','update_metadata');
INSERT INTO "declared_transitions" VALUES('deletion','update_metadata','request_cancel','update_metadata');
INSERT INTO "declared_transitions" VALUES('deletion','stop','end_helper','stop');
INSERT INTO "declared_transitions" VALUES('deletion','stop','check_bases','stop');
INSERT INTO "declared_transitions" VALUES('deletion','stop','claim','stop');
INSERT INTO "declared_transitions" VALUES('deletion','stop','alarm','stop');
INSERT INTO "declared_transitions" VALUES('deletion','stop','request_cancel','stop');
INSERT INTO "declared_transitions" VALUES('deletion','completed','claim','completed');
INSERT INTO "declared_transitions" VALUES('deletion','completed','alarm','completed');
INSERT INTO "declared_transitions" VALUES('deletion','completed','request_cancel','completed');
INSERT INTO "declared_transitions" VALUES('deletion','roll_back','release_votes','roll_back');
INSERT INTO "declared_transitions" VALUES('deletion','roll_back','cancel_jobs','roll_back');
INSERT INTO "declared_transitions" VALUES('deletion','roll_back','restore_read_only','roll_back');
INSERT INTO "declared_transitions" VALUES('deletion','roll_back','end_helper','roll_back');
INSERT INTO "declared_transitions" VALUES('deletion','roll_back','claim','roll_back');
INSERT INTO "declared_transitions" VALUES('deletion','roll_back','alarm','roll_back');
INSERT INTO "declared_transitions" VALUES('deletion','roll_back','request_cancel','roll_back');
INSERT INTO "declared_transitions" VALUES('deletion','rolled_back','claim','rolled_back');
INSERT INTO "declared_transitions" VALUES('deletion','rolled_back','alarm','rolled_back');
INSERT INTO "declared_transitions" VALUES('deletion','rolled_back','request_cancel','rolled_back');
INSERT INTO "declared_transitions" VALUES('deletion','refused','claim','refused');
INSERT INTO "declared_transitions" VALUES('deletion','refused','alarm','refused');
INSERT INTO "declared_transitions" VALUES('deletion','refused','request_cancel','refused');
INSERT INTO "declared_transitions" VALUES('fold','planned','start','copying');
INSERT INTO "declared_transitions" VALUES('fold','copying','converge','converged');
INSERT INTO "declared_transitions" VALUES('fold','converged','diverge','copying');
INSERT INTO "declared_transitions" VALUES('fold','converged','vote','voted');
INSERT INTO "declared_transitions" VALUES('fold','voted','annul','converged');
INSERT INTO "declared_transitions" VALUES('fold','voted','keep','copying');
INSERT INTO "declared_transitions" VALUES('fold','voted','switch','switched');
INSERT INTO "declared_transitions" VALUES('fold','switched','retire','retired');
INSERT INTO "declared_transitions" VALUES('fold','planned','restart','planned');
INSERT INTO "declared_transitions" VALUES('fold','copying','restart','planned');
INSERT INTO "declared_transitions" VALUES('fold','converged','restart','planned');
INSERT INTO "declared_transitions" VALUES('fold','planned','cancel','cancelled');
INSERT INTO "declared_transitions" VALUES('fold','copying','cancel','cancelled');
INSERT INTO "declared_transitions" VALUES('fold','converged','cancel','cancelled');
INSERT INTO "declared_transitions" VALUES('fold','copying','fail','failed');
INSERT INTO "declared_transitions" VALUES('fold','converged','fail','failed');
INSERT INTO "declared_transitions" VALUES('fold','planned','claim','planned');
INSERT INTO "declared_transitions" VALUES('fold','planned','alarm','planned');
INSERT INTO "declared_transitions" VALUES('fold','planned','request_cancel','planned');
INSERT INTO "declared_transitions" VALUES('fold','copying','claim','copying');
INSERT INTO "declared_transitions" VALUES('fold','copying','alarm','copying');
INSERT INTO "declared_transitions" VALUES('fold','copying','request_cancel','copying');
INSERT INTO "declared_transitions" VALUES('fold','converged','claim','converged');
INSERT INTO "declared_transitions" VALUES('fold','converged','alarm','converged');
INSERT INTO "declared_transitions" VALUES('fold','converged','request_cancel','converged');
INSERT INTO "declared_transitions" VALUES('fold','voted','claim','voted');
INSERT INTO "declared_transitions" VALUES('fold','voted','alarm','voted');
INSERT INTO "declared_transitions" VALUES('fold','voted','request_cancel','voted');
INSERT INTO "declared_transitions" VALUES('fold','switched','claim','switched');
INSERT INTO "declared_transitions" VALUES('fold','switched','alarm','switched');
INSERT INTO "declared_transitions" VALUES('fold','switched','request_cancel','switched');
INSERT INTO "declared_transitions" VALUES('fold','retired','claim','retired');
INSERT INTO "declared_transitions" VALUES('fold','retired','alarm','retired');
INSERT INTO "declared_transitions" VALUES('fold','retired','request_cancel','retired');
INSERT INTO "declared_transitions" VALUES('fold','cancelled','claim','cancelled');
INSERT INTO "declared_transitions" VALUES('fold','cancelled','alarm','cancelled');
INSERT INTO "declared_transitions" VALUES('fold','cancelled','request_cancel','cancelled');
INSERT INTO "declared_transitions" VALUES('fold','failed','claim','failed');
INSERT INTO "declared_transitions" VALUES('fold','failed','alarm','failed');
INSERT INTO "declared_transitions" VALUES('fold','failed','request_cancel','failed');
INSERT INTO "declared_transitions" VALUES('creation','planned','made','overlays_made');
INSERT INTO "declared_transitions" VALUES('creation','overlays_made','switched','switched');
INSERT INTO "declared_transitions" VALUES('creation','switched','recorded','recorded');
INSERT INTO "declared_transitions" VALUES('creation','planned','undo','undone');
INSERT INTO "declared_transitions" VALUES('creation','overlays_made','undo','undone');
INSERT INTO "declared_transitions" VALUES('creation','planned','make_overlays','planned');
INSERT INTO "declared_transitions" VALUES('creation','planned','remove_overlays','planned');
INSERT INTO "declared_transitions" VALUES('creation','planned','claim','planned');
INSERT INTO "declared_transitions" VALUES('creation','planned','alarm','planned');
INSERT INTO "declared_transitions" VALUES('creation','planned','request_cancel','planned');
INSERT INTO "declared_transitions" VALUES('creation','overlays_made','switch','overlays_made');
INSERT INTO "declared_transitions" VALUES('creation','overlays_made','remove_overlays','overlays_made');
INSERT INTO "declared_transitions" VALUES('creation','overlays_made','claim','overlays_made');
INSERT INTO "declared_transitions" VALUES('creation','overlays_made','alarm','overlays_made');
INSERT INTO "declared_transitions" VALUES('creation','overlays_made','request_cancel','overlays_made');
INSERT INTO "declared_transitions" VALUES('creation','switched','claim','switched');
INSERT INTO "declared_transitions" VALUES('creation','switched','alarm','switched');
INSERT INTO "declared_transitions" VALUES('creation','switched','request_cancel','switched');
INSERT INTO "declared_transitions" VALUES('creation','recorded','claim','recorded');
INSERT INTO "declared_transitions" VALUES('creation','recorded','alarm','recorded');
INSERT INTO "declared_transitions" VALUES('creation','recorded','request_cancel','recorded');
INSERT INTO "declared_transitions" VALUES('creation','undone','claim','undone');
INSERT INTO "declared_transitions" VALUES('creation','undone','alarm','undone');
INSERT INTO "declared_transitions" VALUES('creation','undone','request_cancel','undone');
CREATE TABLE deletions (
    id TEXT PRIMARY KEY CHECK (length(id) = 12),
    machine TEXT NOT NULL DEFAULT 'deletion' CHECK (machine = 'deletion'),
    domain TEXT NOT NULL,
    snapshot TEXT NOT NULL,
    state TEXT NOT NULL,
    generation INTEGER NOT NULL DEFAULT 1,
    options TEXT NOT NULL,
    plan TEXT,
    helper TEXT,
    hold TEXT,
    cancel_requested INTEGER NOT NULL DEFAULT 0 CHECK (cancel_requested IN (0, 1)),
    downtime_ms REAL,
    reason TEXT,
    started TEXT NOT NULL,
    finished TEXT,
    FOREIGN KEY (machine, state) REFERENCES declared_states (machine, state)
) STRICT;
INSERT INTO "deletions" VALUES('c883f16bcb35','deletion','web','s1','commit_per_disk',1,'{"bandwidth": null, "max_downtime_ms": 5000, "timeout": null, "insist": false}','{"boot_id": "a477550b-7a6d-4bc3-8aff-db3f683de1ad", "domain": "web", "folds": [{"above": null, "base": {"file": {"device": @DEVICE@, "inode": @INODE:vda.qcow2@}, "format": "qcow2", "path": "@FOLDER@/vda.qcow2", "virtual_size": 67108864}, "base_stamp": {"mtime_ns": 1795741811858182250, "size": 196616}, "chain": [{"file": {"device": @DEVICE@, "inode": @INODE:vda.s1@}, "format": "qcow2", "path": "@FOLDER@/vda.s1", "virtual_size": 67108864}, {"file": {"device": @DEVICE@, "inode": @INODE:vda.qcow2@}, "format": "qcow2", "path": "@FOLDER@/vda.qcow2", "virtual_size": 67108864}], "copy_bytes": 8388608, "job": "backfold-c883f16bcb35-0", "link": null, "space_bytes": 9445572, "strategy": "commit", "target": "vda", "top": {"file": {"device": @DEVICE@, "inode": @INODE:vda.s1@}, "format": "qcow2", "path": "@FOLDER@/vda.s1", "virtual_size": 67108864}}], "invalid_before": null, "parent": null, "power": "off", "risks": ["The disk''s image name changes: whoever starts the domain must use the new one (`backfold domain args` prints it).", "Once copying has begun, the snapshot cannot be reverted to any more, even if the deletion is rolled back."], "snapshot": "s1", "version": 1}','{"boot_id": "a477550b-7a6d-4bc3-8aff-db3f683de1ad", "pid": 6604, "socket": "/run/backfold/c883f16bcb35-8b05e50e.sock", "start_time": 1692.75}',NULL,0,NULL,NULL,'2026-11-27T01:10:24.790587+00:00',NULL);
CREATE TABLE disks (
    domain TEXT NOT NULL REFERENCES domains (name) ON DELETE CASCADE,
    target TEXT NOT NULL CHECK (target <> ''),
    source TEXT NOT NULL REFERENCES images (path),
    position INTEGER NOT NULL,
    PRIMARY KEY (domain, target),
    UNIQUE (domain, source)
) STRICT;
INSERT INTO "disks" VALUES('web','vda','@FOLDER@/vda.s1',0);
CREATE TABLE domains (
    name TEXT PRIMARY KEY CHECK (name <> ''),
    monitor TEXT CHECK (monitor LIKE '/%'),
    created TEXT NOT NULL
) STRICT;
INSERT INTO "domains" VALUES('web',NULL,'2026-11-27T01:10:15.493134+00:00');
CREATE TABLE folds (
    deletion TEXT NOT NULL REFERENCES deletions (id),
    target TEXT NOT NULL,
    machine TEXT NOT NULL DEFAULT 'fold' CHECK (machine = 'fold'),
    state TEXT NOT NULL,
    top_stamp TEXT,
    base_stamp TEXT,
    PRIMARY KEY (deletion, target),
    FOREIGN KEY (machine, state) REFERENCES declared_states (machine, state),
    CHECK (state NOT IN ('voted', 'switched', 'retired')
           OR (top_stamp IS NOT NULL AND base_stamp IS NOT NULL))
) STRICT;
INSERT INTO "folds" VALUES('c883f16bcb35','vda','fold','copying',NULL,NULL);
CREATE TABLE images (
    path TEXT PRIMARY KEY CHECK (path LIKE '/%'),
    format TEXT NOT NULL CHECK (format IN ('qcow2', 'raw')),
    made_by TEXT
) STRICT;
INSERT INTO "images" VALUES('@FOLDER@/vda.qcow2','qcow2',NULL);
INSERT INTO "images" VALUES('@FOLDER@/vda.s1','qcow2','8af517d6958f');
CREATE TABLE snapshot_disks (
    domain TEXT NOT NULL,
    snapshot TEXT NOT NULL,
    target TEXT NOT NULL,
    frozen TEXT NOT NULL REFERENCES images (path),
    PRIMARY KEY (domain, snapshot, target),
    FOREIGN KEY (domain, snapshot) REFERENCES snapshots (domain, name)
        ON DELETE CASCADE
) STRICT;
INSERT INTO "snapshot_disks" VALUES('web','s1','vda','@FOLDER@/vda.qcow2');
CREATE TABLE snapshots (
    domain TEXT NOT NULL REFERENCES domains (name) ON DELETE CASCADE,
    name TEXT NOT NULL CHECK (name <> ''),
    parent TEXT,
    created TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('valid', 'deleting', 'invalid')),
    reason TEXT CHECK ((reason IS NULL) = (status <> 'invalid')),
    current INTEGER NOT NULL CHECK (current IN (0, 1)),
    PRIMARY KEY (domain, name),
    FOREIGN KEY (domain, parent) REFERENCES snapshots (domain, name),
    CHECK (parent <> name)
) STRICT;
INSERT INTO "snapshots" VALUES('web','s1',NULL,'2026-11-27T01:10:19.257563+00:00','deleting',NULL,1);
CREATE TABLE transitions (
    id INTEGER PRIMARY KEY,
    machine TEXT NOT NULL,
    run TEXT NOT NULL,
    source TEXT NOT NULL,
    trigger TEXT NOT NULL,
    dest TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('edge', 'announce', 'note', 'remark')),
    who TEXT NOT NULL,
    generation INTEGER NOT NULL,
    detail TEXT NOT NULL,
    at TEXT NOT NULL,
    FOREIGN KEY (machine, source, trigger, dest)
        REFERENCES declared_transitions (machine, source, trigger, dest),
    CHECK ((kind = 'edge') OR (source = dest))
) STRICT;
INSERT INTO "transitions" VALUES(1,'creation','8af517d6958f','planned','claim','planned','remark','root@host:5640',1,'{"began": true}','2026-11-27T01:10:19.257563+00:00');
INSERT INTO "transitions" VALUES(2,'creation','8af517d6958f','planned','make_overlays','planned','announce','root@host:5640',1,'{}','2026-11-27T01:10:19.269271+00:00');
INSERT INTO "transitions" VALUES(3,'creation','8af517d6958f','planned','make_overlays','planned','note','root@host:5640',1,'{}','2026-11-27T01:10:19.493286+00:00');
INSERT INTO "transitions" VALUES(4,'creation','8af517d6958f','planned','made','overlays_made','edge','root@host:5640',1,'{}','2026-11-27T01:10:19.541295+00:00');
INSERT INTO "transitions" VALUES(5,'creation','8af517d6958f','overlays_made','switched','switched','edge','root@host:5640',1,'{}','2026-11-27T01:10:19.565618+00:00');
INSERT INTO "transitions" VALUES(6,'creation','8af517d6958f','switched','recorded','recorded','edge','root@host:5640',1,'{}','2026-11-27T01:10:19.584991+00:00');
INSERT INTO "transitions" VALUES(7,'deletion','c883f16bcb35','validate','claim','validate','remark','root@host:6350',1,'{"began": true}','2026-11-27T01:10:24.790587+00:00');
INSERT INTO "transitions" VALUES(8,'deletion','c883f16bcb35','validate','accept','prepare','edge','root@host:6350',1,'{"bytes": {"vda": 8388608}, "power": "off"}','2026-11-27T01:10:24.983330+00:00');
INSERT INTO "transitions" VALUES(9,'deletion','c883f16bcb35','prepare','probe_fence','prepare','announce','root@host:6350',1,'{}','2026-11-27T01:10:25.410610+00:00');
INSERT INTO "transitions" VALUES(10,'deletion','c883f16bcb35','prepare','probe_fence','prepare','note','root@host:6350',1,'{}','2026-11-27T01:10:25.412161+00:00');
INSERT INTO "transitions" VALUES(11,'deletion','c883f16bcb35','prepare','proceed','start_paused','edge','root@host:6350',1,'{"power": "off"}','2026-11-27T01:10:25.413371+00:00');
INSERT INTO "transitions" VALUES(12,'deletion','c883f16bcb35','start_paused','start_helper','start_paused','announce','root@host:6350',1,'{"socket": "/run/backfold/c883f16bcb35-8b05e50e.sock"}','2026-11-27T01:10:25.414329+00:00');
INSERT INTO "transitions" VALUES(13,'deletion','c883f16bcb35','start_paused','start_helper','start_paused','note','root@host:6350',1,'{}','2026-11-27T01:10:25.584629+00:00');
INSERT INTO "transitions" VALUES(14,'deletion','c883f16bcb35','start_paused','open_images','start_paused','announce','root@host:6350',1,'{}','2026-11-27T01:10:25.617017+00:00');
INSERT INTO "transitions" VALUES(15,'deletion','c883f16bcb35','start_paused','open_images','start_paused','note','root@host:6350',1,'{}','2026-11-27T01:10:25.684781+00:00');
INSERT INTO "transitions" VALUES(16,'deletion','c883f16bcb35','start_paused','proceed','commit_per_disk','edge','root@host:6350',1,'{}','2026-11-27T01:10:25.704614+00:00');
INSERT INTO "transitions" VALUES(17,'deletion','c883f16bcb35','commit_per_disk','start_job','commit_per_disk','announce','root@host:6350',1,'{"disk": "vda", "job": "backfold-c883f16bcb35-0"}','2026-11-27T01:10:25.816774+00:00');
INSERT INTO "transitions" VALUES(18,'deletion','c883f16bcb35','commit_per_disk','start_job','commit_per_disk','note','root@host:6350',1,'{}','2026-11-27T01:10:25.853801+00:00');
INSERT INTO "transitions" VALUES(19,'fold','c883f16bcb35','planned','start','copying','edge','root@host:6350',1,'{"disk": "vda"}','2026-11-27T01:10:25.853886+00:00');
CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name");
CREATE UNIQUE INDEX one_current_snapshot ON snapshots (domain) WHERE current = 1;
CREATE UNIQUE INDEX one_open_deletion ON deletions (domain) WHERE finished IS NULL;
CREATE UNIQUE INDEX one_open_creation ON creations (domain) WHERE finished IS NULL;
CREATE INDEX transitions_of_run ON transitions (run, id);
CREATE TRIGGER transitions_are_new BEFORE INSERT ON transitions
WHEN NEW.id IN (SELECT id FROM transitions)
BEGIN SELECT RAISE(ABORT, 'transitions only grows'); END;
CREATE TRIGGER transitions_only_grow BEFORE UPDATE ON transitions
BEGIN SELECT RAISE(ABORT, 'transitions only grows'); END;
CREATE TRIGGER transitions_stay BEFORE DELETE ON transitions
BEGIN SELECT RAISE(ABORT, 'transitions only grows'); END;
COMMIT;
