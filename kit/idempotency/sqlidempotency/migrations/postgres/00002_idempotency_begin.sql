-- +goose Up
-- +goose StatementBegin
-- Whether the key is this transaction's to work on: takes the key's lock until the
-- transaction ends and looks for a result, in one round trip. The look has a
-- snapshot of its own, so that it sees what the lock's former holder committed.
CREATE FUNCTION napkin_idempotency_begin(p_lock BIGINT, p_scope TEXT, p_operation TEXT, p_key TEXT, p_now BIGINT)
RETURNS BOOLEAN LANGUAGE plpgsql VOLATILE AS $$
BEGIN
	IF NOT pg_try_advisory_xact_lock(p_lock) THEN
		RETURN false;
	END IF;
	PERFORM FROM napkin_idempotency
		WHERE scope = p_scope AND operation = p_operation AND key = p_key AND expires > p_now;
	RETURN NOT FOUND;
END
$$;
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION napkin_idempotency_begin(BIGINT, TEXT, TEXT, TEXT, BIGINT);
