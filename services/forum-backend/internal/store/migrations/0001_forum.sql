-- The forum. Each statement can be run again, so a server that dies half-way does no harm.
CREATE TABLE IF NOT EXISTS forum_setting (
  name  VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  value VARCHAR(1000) NOT NULL,
  PRIMARY KEY (name)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;

CREATE TABLE IF NOT EXISTS forum_user (
  id       BIGINT NOT NULL,
  name     VARCHAR(30) NOT NULL,
  email    VARCHAR(190) NOT NULL,
  password VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  epoch    INT UNSIGNED NOT NULL,
  admin    BOOLEAN NOT NULL,
  created  DATETIME(6) NOT NULL,
  PRIMARY KEY (id),
  UNIQUE KEY user_name (name),
  UNIQUE KEY user_email (email)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;

CREATE TABLE IF NOT EXISTS forum_board (
  id          BIGINT NOT NULL,
  name        VARCHAR(60) NOT NULL,
  description VARCHAR(300) NOT NULL,
  created     DATETIME(6) NOT NULL,
  PRIMARY KEY (id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;

-- last_post is the id of the newest post; ids grow with time, so it is also the order of the lists.
CREATE TABLE IF NOT EXISTS forum_thread (
  id           BIGINT NOT NULL,
  board_id     BIGINT NOT NULL,
  author_id    BIGINT NOT NULL,
  title        VARCHAR(120) NOT NULL,
  created      DATETIME(6) NOT NULL,
  last_post    BIGINT NOT NULL,
  last_post_at DATETIME(6) NOT NULL,
  PRIMARY KEY (id),
  KEY thread_board (board_id, last_post),
  KEY thread_newest (last_post)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;

CREATE TABLE IF NOT EXISTS forum_post (
  id        BIGINT NOT NULL,
  thread_id BIGINT NOT NULL,
  author_id BIGINT NOT NULL,
  body      MEDIUMTEXT NOT NULL,
  created   DATETIME(6) NOT NULL,
  PRIMARY KEY (id),
  KEY post_thread (thread_id, id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;

CREATE TABLE IF NOT EXISTS forum_attachment (
  id      BIGINT NOT NULL,
  post_id BIGINT NOT NULL,
  name    VARCHAR(120) NOT NULL,
  path    VARCHAR(120) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  size    BIGINT NOT NULL,
  sha256  BINARY(32) NOT NULL,
  type    VARCHAR(60) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  created DATETIME(6) NOT NULL,
  PRIMARY KEY (id),
  UNIQUE KEY attachment_path (path),
  KEY attachment_post (post_id, id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;
