-- The health bureau's own list of old people, typed from a monthly printout: English names, letters as
-- codes, and columns of its own that the bus knows nothing of. One row is here already, and out of date.

CREATE TABLE elder (
    person_id TEXT PRIMARY KEY,
    full_name TEXT NOT NULL,
    gender TEXT NOT NULL CHECK (gender IN ('M', 'F')),
    birthday TEXT NOT NULL,
    area TEXT NOT NULL,
    alone INTEGER NOT NULL CHECK (alone IN (0, 1)),
    mobile TEXT NOT NULL DEFAULT 'not given',
    doctor TEXT NOT NULL DEFAULT 'unassigned',  -- ours: the bus never touches it
    last_visit TEXT                             -- ours
);

INSERT INTO elder (person_id, full_name, gender, birthday, area, alone, mobile, doctor, last_visit) VALUES
    ('330106193805120012', '沈测试', 'F', '1938-05-12', '330106109002', 0, 'not given', '王医生', '2026-10-09');
