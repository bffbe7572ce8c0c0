# The composed system (compose.yaml). ONLY="orders-api orders-worker orders-relay" runs these and what they need.
ONLY ?=
DATABASE ?= notifications

.PHONY: up down logs build db-shell walk test

up: .env
	docker compose up --build --detach --wait $(ONLY)

# The volumes, and with them all data, stay: `docker compose down --volumes` removes them.
down:
	docker compose --profile '*' down

logs:
	docker compose logs --follow --tail 100 $(ONLY)

build:
	docker compose build

# DATABASE=orders is on MySQL, messages and notifications on PostgreSQL.
db-shell:
ifeq ($(DATABASE),orders)
	docker compose exec mysql sh -c 'MYSQL_PWD="$$MYSQL_PASSWORD" mysql --user="$$MYSQL_USER" "$$MYSQL_DATABASE"'
else
	docker compose exec postgres psql --username posthaste $(DATABASE)
endif

# Every service's commands against the running system, with what each has to answer.
walk:
	scripts/walk_composed.sh

test:
	cargo xtask test

.env:
	cp .env.example .env
